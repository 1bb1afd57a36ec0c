// Package frame cuts a byte stream into messages: between tenant-proxy and cri-ext
// on a socket, and between cri-ext and the agent in a guest on whatever channel the
// guest has.
//
//	frame = marker(4) kind(1) length(4) checksum(4) payload(length)
//
// Numbers are big endian. The checksum is CRC-32C (Castagnoli, RFC 3720 appendix
// B.4) of kind, length and payload. A serial port has no connections: what is read
// first may be the rest of a frame of some earlier peer. Marker and checksum let a
// reader find the next whole frame.
package frame

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// headerBytes is the length of a frame without its payload.
const headerBytes = 13

// skipLimit bounds what Resync passes over before it gives up, in bytes.
const skipLimit = 64 << 20

var (
	marker     = [4]byte{0xB5, 'b', 'h', 0x1A}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// ErrCorrupt is wrapped by errors about bytes that are no frame.
var ErrCorrupt = errors.New("corrupt frame")

// TooLargeError says that a frame was announced that is longer than the reader takes.
type TooLargeError struct{ Length, Limit uint32 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("frame of %d bytes exceeds %d", e.Length, e.Limit)
}

// Writer writes frames. It is not for use by several goroutines at once.
type Writer struct {
	to     io.Writer
	buffer []byte
}

// NewWriter returns a writer that makes one call of to.Write for each frame.
func NewWriter(to io.Writer) *Writer { return &Writer{to: to} }

// Write sends one frame whose payload is what encode appends to its argument; nil
// is no payload.
func (w *Writer) Write(kind byte, encode func([]byte) []byte) error {
	buffer := append(w.buffer[:0], marker[:]...)
	buffer = append(buffer, kind, 0, 0, 0, 0, 0, 0, 0, 0)
	if encode != nil {
		buffer = encode(buffer)
	}
	binary.BigEndian.PutUint32(buffer[5:], uint32(len(buffer)-headerBytes))
	binary.BigEndian.PutUint32(buffer[9:], checksum(buffer[:headerBytes], buffer[headerBytes:]))
	w.buffer = buffer
	_, err := w.to.Write(buffer)
	if cap(w.buffer) > 1<<20 { // a large set is rare: do not keep its space
		w.buffer = nil
	}
	return err
}

func checksum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[4:9], castagnoli), castagnoli, payload)
}

// Reader reads frames. It is not for use by several goroutines at once.
type Reader struct {
	from   *bufio.Reader
	limit  uint32
	resync bool
	buffer []byte
}

// NewReader returns a reader that refuses payloads of more than limit bytes. With
// resync it passes over what is no frame, as on a serial port; without, that is an
// error.
func NewReader(from io.Reader, limit uint32, resync bool) *Reader {
	return &Reader{from: bufio.NewReaderSize(from, 64<<10), limit: limit, resync: resync}
}

// Next returns the next frame. The payload is valid until the next call. Memory is
// taken as the payload arrives, not as it is announced.
func (r *Reader) Next() (kind byte, payload []byte, err error) {
	skipped := 0
	for {
		header, err := r.from.Peek(headerBytes)
		if err != nil {
			if errors.Is(err, io.EOF) && len(header) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		length := binary.BigEndian.Uint32(header[5:])
		switch {
		case [4]byte(header) != marker:
			err = fmt.Errorf("%w: no marker", ErrCorrupt)
		case length > r.limit:
			err = &TooLargeError{Length: length, Limit: r.limit}
		default:
			kind, sum := header[4], binary.BigEndian.Uint32(header[9:])
			saved := [headerBytes]byte(header)
			payload, err = r.payload(int(length))
			if err != nil {
				return 0, nil, err
			}
			if checksum(saved[:], payload) == sum {
				return kind, payload, nil
			}
			// The marker may have been part of something else, but what followed it
			// was read as a payload and cannot be put back: the peer has to repeat it.
			err = fmt.Errorf("%w: checksum", ErrCorrupt)
			skipped += headerBytes + int(length)
			if !r.resync || skipped > skipLimit {
				return 0, nil, err
			}
			continue
		}
		if skipped++; !r.resync || skipped > skipLimit {
			return 0, nil, err
		}
		if _, err := r.from.Discard(1); err != nil {
			return 0, nil, err
		}
	}
}

// step is how much of a payload is taken at once, in bytes.
const step = 64 << 10

func (r *Reader) payload(length int) ([]byte, error) {
	if _, err := r.from.Discard(headerBytes); err != nil {
		return nil, err
	}
	buffer := r.buffer[:0]
	for len(buffer) < length {
		from := len(buffer)
		n := min(step, length-from)
		buffer = append(buffer, make([]byte, n)...)
		if _, err := io.ReadFull(r.from, buffer[from:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	r.buffer = buffer
	return buffer, nil
}
