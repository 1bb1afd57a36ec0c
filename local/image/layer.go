package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// entry is a file, folder or symbolic link of a layer.
type entry struct {
	name   string // path in the image, without a leading slash
	mode   int64
	kind   byte // tar.TypeReg, tar.TypeDir or tar.TypeSymlink
	owner  int  // user and group
	target string
	source string // file on this machine; if empty, the content is in text
	text   string
	xattr  map[string]string
}

// file is an executable file with the content of source.
func file(name, source string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o755, source: source}
}

// text is a file with the given content.
func text(name, content string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o644, text: content}
}

// folder is a folder.
func folder(name string, mode int64) entry {
	return entry{name: name, kind: tar.TypeDir, mode: mode}
}

// link is a symbolic link.
func link(name, target string) entry {
	return entry{name: name, kind: tar.TypeSymlink, mode: 0o777, target: target}
}

// owned returns the entry with another owner than root.
func (e entry) owned(id int) entry {
	e.owner = id
	return e
}

// capNetBindService is CAP_NET_BIND_SERVICE of linux/capability.h.
const capNetBindService = 10

// capable returns the entry with a file capability, permitted and effective, in
// the form of struct vfs_cap_data, revision 2, of linux/capability.h.
func (e entry) capable(capability uint) entry {
	var data []byte
	data = binary.LittleEndian.AppendUint32(data, 0x02000001) // VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE
	data = binary.LittleEndian.AppendUint64(data, 1<<capability)
	data = binary.LittleEndian.AppendUint64(data, 0) // the upper 32 capabilities
	e.xattr = maps.Clone(e.xattr)
	if e.xattr == nil {
		e.xattr = map[string]string{}
	}
	e.xattr["security.capability"] = string(data)
	return e
}

// layer is a layer of an image. It is not compressed: reading, unpacking and
// checking it is then as quick as copying, and the network is this machine's
// own memory.
type layer struct {
	entries []entry
	digest  v1.Hash
	size    int64
}

// newLayer makes a layer of the entries, in order of their names, and of the
// folders that they lie in.
func newLayer(entries []entry) (*layer, error) {
	byName := map[string]entry{}
	for _, e := range entries {
		if e.name == "" || path.Clean("/"+e.name) != "/"+e.name {
			return nil, fmt.Errorf("%q is no path in an image", e.name)
		}
		if _, ok := byName[e.name]; ok {
			return nil, fmt.Errorf("%s is in the layer twice", e.name)
		}
		byName[e.name] = e
	}
	for _, e := range entries {
		for dir := path.Dir(e.name); dir != "."; dir = path.Dir(dir) {
			if parent, ok := byName[dir]; !ok {
				byName[dir] = folder(dir, 0o755)
			} else if parent.kind != tar.TypeDir {
				return nil, fmt.Errorf("%s lies in %s, which is no folder", e.name, dir)
			}
		}
	}
	l := &layer{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		l.entries = append(l.entries, byName[name])
	}
	hash := sha256.New()
	counter := &countingWriter{w: hash}
	if err := l.write(counter); err != nil {
		return nil, err
	}
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	l.size = counter.n
	return l, nil
}

// write writes the layer as a tar archive.
func (l *layer) write(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, e := range l.entries {
		if err := e.write(archive); err != nil {
			return fmt.Errorf("adding %s to a layer: %w", e.name, err)
		}
	}
	return archive.Close()
}

func (e entry) write(archive *tar.Writer) error {
	header := &tar.Header{
		Name: e.name, Mode: e.mode, Typeflag: e.kind, Linkname: e.target,
		Uid: e.owner, Gid: e.owner, ModTime: epoch,
	}
	for name, value := range e.xattr {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords["SCHILY.xattr."+name] = value
	}
	if e.kind == tar.TypeDir {
		header.Name += "/"
	}
	if e.kind != tar.TypeReg {
		return archive.WriteHeader(header)
	}
	var content io.Reader = strings.NewReader(e.text)
	header.Size = int64(len(e.text))
	if e.source != "" {
		f, err := os.Open(e.source)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		content, header.Size = f, info.Size()
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// countingWriter counts what goes through it.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// The methods of v1.Layer.

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.Uncompressed() }
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(l.write(w)) }()
	return r, nil
}

var _ v1.Layer = (*layer)(nil)
