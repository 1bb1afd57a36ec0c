package microvm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is one kernel module, ready to be loaded.
type module struct {
	name string
	data []byte
}

// resolve returns the modules of the names and what they depend on, in an order that
// they can be loaded in. Names of what is built into the kernel are passed over. The
// package has no modules.dep, which is made when it is installed; modules say
// themselves what they need.
func resolve(ctx context.Context, kernel kernel, names []string) ([]module, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel.modules, "kernel"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, is := strings.Cut(entry.Name(), ".ko"); is {
			paths[canonical(name)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing kernel modules: %w", err)
	}
	builtin, err := builtins(kernel)
	if err != nil {
		return nil, err
	}
	var order []module
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = canonical(name)
		if seen[name] || builtin[name] {
			return nil
		}
		seen[name] = true
		path, found := paths[name]
		if !found {
			return fmt.Errorf("kernel module %s: Debian's cloud kernel has none of this name", name)
		}
		data, err := read(ctx, path)
		if err != nil {
			return fmt.Errorf("reading kernel module %s: %w", name, err)
		}
		needs, err := depends(data)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		for _, need := range needs {
			if err := visit(need); err != nil {
				return fmt.Errorf("needed by %s: %w", name, err)
			}
		}
		order = append(order, module{name: name, data: data})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// canonical is the form of a module's name that the kernel uses.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func builtins(kernel kernel) (map[string]bool, error) {
	list, err := os.ReadFile(filepath.Join(kernel.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for path := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(path)), ".ko")
		names[canonical(name)] = true
	}
	return names, nil
}

func read(ctx context.Context, path string) ([]byte, error) {
	if strings.HasSuffix(path, ".xz") {
		return exec.CommandContext(ctx, "xz", "--decompress", "--stdout", path).Output()
	}
	return os.ReadFile(path)
}

// depends reads a module's "depends" out of its information, a list of NAME=VALUE
// that end with a zero byte.
func depends(data []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("has no information of itself")
	}
	information, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(information, []byte{0}) {
		if value, is := strings.CutPrefix(string(field), "depends="); is && value != "" {
			return strings.Split(value, ","), nil
		}
	}
	return nil, nil
}
