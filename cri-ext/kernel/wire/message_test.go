package wire

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMessagesComeApartAgain(t *testing.T) {
	var b Builder
	b.Begin(7, unix.NLM_F_DUMP)
	b.Raw(1, 2, 3, 4)
	b.Text(1, "name")
	nest := b.Nest(2)
	b.Big32(3, 0x01020304)
	b.Attr(4, []byte{9})
	b.Close(nest)
	b.End()
	b.Begin(8, 0)
	b.Acknowledge()
	b.End()
	count := 0
	err := each(b.Bytes, func(kind, flags uint16, seq uint32, data []byte) error {
		count++
		if int(seq) != count {
			t.Errorf("message %d has number %d", count, seq)
		}
		if count == 2 {
			if kind != 8 || flags != unix.NLM_F_REQUEST|unix.NLM_F_ACK || len(data) != 0 {
				t.Errorf("second: %d %x %x", kind, flags, data)
			}
			return nil
		}
		if kind != 7 || flags != unix.NLM_F_REQUEST|unix.NLM_F_DUMP {
			t.Errorf("first: %d %x", kind, flags)
		}
		if name := Find(data[4:], 1); string(name) != "name\x00" {
			t.Errorf("name %q", name)
		}
		inner := Find(data[4:], 2)
		if number, one := Find(inner, 3), Find(inner, 4); !bytes.Equal(number, []byte{1, 2, 3, 4}) || !bytes.Equal(one, []byte{9}) {
			t.Errorf("inside: %x %x", number, one)
		}
		if none := Find(inner, 5); none != nil {
			t.Errorf("what is not there: %x", none)
		}
		return nil
	})
	if err != nil || count != 2 {
		t.Errorf("%d messages, %v", count, err)
	}
}

func TestKernelRefusesByNumber(t *testing.T) {
	own, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(own)
	socket, err := Dial(own, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var b Builder
	for range 3 { // a link that does not exist
		b.Begin(unix.RTM_DELLINK, 0)
		b.Raw(make([]byte, unix.SizeofIfInfomsg)...)
		b.Text(unix.IFLA_IFNAME, "bh-test-none")
		b.End()
	}
	b.Acknowledge()
	var refused *Error
	if err := socket.Send(t.Context(), b.Bytes, b.Sequence()); !errors.As(err, &refused) || refused.Sequence != 1 || refused.Errno != unix.ENODEV {
		t.Errorf("refused by %v", err)
	}
	if err := socket.Send(t.Context(), b.Bytes, b.Sequence(), unix.ENODEV); err != nil {
		t.Errorf("although tolerated: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	var b Builder
	b.Begin(7, 0)
	b.Text(1, "name")
	b.Close(b.Nest(2))
	b.End()
	f.Add(b.Bytes)
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = each(data, func(_, _ uint16, _ uint32, data []byte) error {
			for kind, value, rest, ok := Attributes(data); ok; kind, value, rest, ok = Attributes(rest) {
				Find(value, kind)
			}
			return nil
		})
	})
}
