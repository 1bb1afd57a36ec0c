package traffic

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// backend is a server at one address and port, for TCP and UDP, that tells its
// address to whoever asks: at once on a connection of TCP, to each datagram of UDP.
// On a connection it repeats the lines that it gets.
type backend struct {
	at       netip.AddrPort
	tcp      net.Listener
	udp      net.PacketConn
	accepted atomic.Int64
	wait     sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]struct{}
}

func serve(n *namespace, at netip.AddrPort) (*backend, error) {
	b := &backend{at: at, open: map[net.Conn]struct{}{}}
	err := n.inside(func() (err error) {
		if b.tcp, err = net.Listen("tcp", at.String()); err != nil {
			return err
		}
		if b.udp, err = net.ListenPacket("udp", at.String()); err != nil {
			b.tcp.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b.wait.Add(2)
	go b.accept()
	go b.answer()
	return b, nil
}

func (b *backend) accept() {
	defer b.wait.Done()
	for {
		conn, err := b.tcp.Accept()
		if err != nil {
			return
		}
		b.accepted.Add(1)
		b.mu.Lock()
		b.open[conn] = struct{}{}
		b.mu.Unlock()
		b.wait.Add(1)
		go func() {
			defer b.wait.Done()
			defer func() {
				b.mu.Lock()
				delete(b.open, conn)
				b.mu.Unlock()
				conn.Close()
			}()
			if _, err := conn.Write([]byte(b.at.String() + "\n")); err != nil {
				return
			}
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := conn.Write(append(lines.Bytes(), '\n')); err != nil {
					return
				}
			}
		}()
	}
}

func (b *backend) answer() {
	defer b.wait.Done()
	var space [64]byte
	for {
		_, from, err := b.udp.ReadFrom(space[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = b.udp.WriteTo([]byte(b.at.String()), from)
		}
	}
}

// close ends the server and what is connected.
func (b *backend) close() {
	b.tcp.Close()
	b.udp.Close()
	b.mu.Lock()
	for conn := range b.open {
		conn.Close()
	}
	b.mu.Unlock()
	b.wait.Wait()
}

// session is a connection of TCP to somebody who said who it is.
type session struct {
	net.Conn
	lines *bufio.Reader
	// peer is what the backend calls itself.
	peer netip.AddrPort
}

// dial connects from inside the namespace, and hears who is there.
func (n *namespace) dial(ctx context.Context, to netip.AddrPort) (*session, error) {
	var s *session
	err := n.inside(func() error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
		if err != nil {
			return err
		}
		s = &session{Conn: conn, lines: bufio.NewReader(conn)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(deadline)
	}
	line, err := s.lines.ReadString('\n')
	if err == nil {
		s.peer, err = netip.ParseAddrPort(line[:len(line)-1])
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// echo tells whether the connection still carries what is sent.
func (s *session) echo(text string) error {
	if _, err := s.Write([]byte(text + "\n")); err != nil {
		return err
	}
	line, err := s.lines.ReadString('\n')
	if err == nil && line != text+"\n" {
		err = errors.New("something else came back: " + line)
	}
	return err
}

// flow is a UDP socket that keeps its port.
type flow struct {
	net.Conn
	deadline time.Time
}

func (n *namespace) flow(ctx context.Context, to netip.AddrPort) (*flow, error) {
	f := &flow{}
	err := n.inside(func() (err error) {
		f.Conn, err = (&net.Dialer{}).DialContext(ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	f.deadline, _ = ctx.Deadline()
	return f, nil
}

// answerTime is how long an answer may take before the question counts as lost.
const answerTime = 500 * time.Millisecond

// ask sends a datagram, again where it seems lost, and hears who answers.
func (f *flow) ask() (netip.AddrPort, error) {
	var space [64]byte
	// What answers an earlier question tells nothing of now.
	_ = f.SetReadDeadline(time.Now().Add(time.Millisecond))
	for {
		if _, err := f.Read(space[:]); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return netip.AddrPort{}, err
		}
	}
	for {
		if _, err := f.Write([]byte("who")); err != nil {
			return netip.AddrPort{}, err
		}
		_ = f.SetReadDeadline(time.Now().Add(answerTime))
		length, err := f.Read(space[:])
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(f.deadline) {
			continue
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.ParseAddrPort(string(space[:length]))
	}
}
