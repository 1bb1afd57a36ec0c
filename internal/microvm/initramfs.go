package microvm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
)

// writeInitramfs makes the guest's file system.
func writeInitramfs(ctx context.Context, to string, kernel kernel, config Config) error {
	names := slices.Clone(base)
	if len(config.Ports) > 0 {
		names = append(names, "virtio_console")
	}
	if config.Network != nil {
		names = append(names, "virtio_net")
	}
	modules, err := resolve(ctx, kernel, append(names, config.Modules...))
	if err != nil {
		return err
	}
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	defer file.Close()
	a := &archive{to: bufio.NewWriterSize(file, 1<<20), made: map[string]bool{}}
	var order []string
	for _, module := range modules {
		order = append(order, module.name)
		a.file(guestinit.ModulePath(module.name), 0o644, module.data)
	}
	data, err := settings(config, order)
	if err != nil {
		return err
	}
	a.file(guestinit.SettingsPath, 0o644, data)
	files := map[string]string{"/init": config.Init}
	maps.Copy(files, config.Files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		info, err := os.Stat(files[name])
		if err != nil {
			return err
		}
		data, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		a.file(name, uint32(info.Mode().Perm()), data)
	}
	a.entry("TRAILER!!!", 0, nil)
	if a.err == nil {
		a.err = a.to.Flush()
	}
	if a.err != nil {
		return fmt.Errorf("writing the initramfs: %w", a.err)
	}
	return file.Close()
}

// archive writes cpio's "newc" format, as Linux' Documentation/driver-api/early-userspace
// describes it: headers of hexadecimal numbers, name and content padded to 4 bytes.
type archive struct {
	to     *bufio.Writer
	made   map[string]bool
	number uint32
	err    error
}

// file writes a file and the folders that it is in. name is absolute.
func (a *archive) file(name string, mode uint32, data []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	for i, c := range name {
		if dir := name[:i]; c == '/' && !a.made[dir] {
			a.made[dir] = true
			a.entry(dir, unix.S_IFDIR|0o755, nil)
		}
	}
	a.entry(name, unix.S_IFREG|mode, data)
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	if a.err != nil {
		return
	}
	a.number++
	// Magic, inode, mode, uid, gid, links, time, size, device (2), its own device (2),
	// length of the name with its end, checksum.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.write(header+name+"\x00", nil)
	a.write("", data)
}

func (a *archive) write(text string, data []byte) {
	if _, err := io.WriteString(a.to, text); err != nil {
		a.err = err
	}
	if _, err := a.to.Write(data); err != nil {
		a.err = err
	}
	for n := len(text) + len(data); n%4 != 0; n++ {
		if err := a.to.WriteByte(0); err != nil {
			a.err = err
		}
	}
}
