package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func write(t testing.TB, to io.Writer, kind byte, payload string) {
	t.Helper()
	if err := NewWriter(to).Write(kind, func(b []byte) []byte { return append(b, payload...) }); err != nil {
		t.Fatal(err)
	}
}

func TestFramesComeOutAsTheyWentIn(t *testing.T) {
	var stream bytes.Buffer
	payloads := []string{"", "x", strings.Repeat("long", 100_000), string(marker[:])}
	for i, payload := range payloads {
		write(t, &stream, byte(i), payload)
	}
	r := NewReader(&stream, 1<<20, false)
	for i, want := range payloads {
		kind, got, err := r.Next()
		if err != nil || kind != byte(i) || string(got) != want {
			t.Fatalf("frame %d: kind %d, %d bytes, %v", i, kind, len(got), err)
		}
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	var whole bytes.Buffer
	write(t, &whole, 1, "payload")
	flipped := bytes.Clone(whole.Bytes())
	flipped[len(flipped)-1] ^= 1
	huge := bytes.Clone(whole.Bytes())
	copy(huge[5:], []byte{0xff, 0xff, 0xff, 0xff})
	for name, data := range map[string][]byte{
		"garbage": bytes.Repeat([]byte("garbage "), 10), "checksum": flipped, "4 GiB": huge,
		"cut": whole.Bytes()[:whole.Len()-1], "cut in the header": whole.Bytes()[:5],
	} {
		_, _, err := NewReader(bytes.NewReader(data), 100, false).Next()
		var large *TooLargeError
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &large) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResyncFindsTheNextFrame(t *testing.T) {
	var old, stream bytes.Buffer
	write(t, &old, 1, "what another peer began")
	stream.Write(old.Bytes()[9:]) // its end
	write(t, &stream, 2, "ours")
	kind, payload, err := NewReader(&stream, 100, true).Next()
	if err != nil || kind != 2 || string(payload) != "ours" {
		t.Errorf("kind %d, %q, %v", kind, payload, err)
	}
}

func FuzzReader(f *testing.F) {
	var stream bytes.Buffer
	write(f, &stream, 3, "seed")
	f.Add(stream.Bytes(), true)
	f.Add(stream.Bytes(), false)
	f.Fuzz(func(t *testing.T, data []byte, resync bool) {
		r := NewReader(bytes.NewReader(data), 1<<10, resync)
		for {
			_, payload, err := r.Next()
			if err != nil {
				return
			}
			if len(payload) > 1<<10 {
				t.Fatalf("payload of %d bytes", len(payload))
			}
		}
	})
}
