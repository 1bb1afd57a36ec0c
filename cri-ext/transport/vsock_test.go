package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
)

func TestMain(m *testing.M) {
	if guestinit.IsInit() {
		guestinit.Run(guest)
	}
	os.Exit(m.Run())
}

// Where the tests run there is no AF_VSOCK, or no vhost_vsock and so no guest behind
// a context ID. Whichever it is, the error says so.
func TestVsockWithoutGuest(t *testing.T) {
	var registry Registry
	dialer, err := registry.Vsock("one", 4000000, 10240)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := dialer.Dial(ctx)
	if err == nil {
		conn.Close()
		t.Fatal("there is a guest of context ID 4000000")
	}
	if !strings.Contains(err.Error(), "vsock 4000000:10240") {
		t.Errorf("the error does not name the way: %v", err)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) && !strings.Contains(err.Error(), "this kernel has no AF_VSOCK") {
		t.Errorf("the error does not say what is missing: %v", err)
	}
	t.Logf("here: %v", err)
}

// TestVsockInAGuest has a kernel with AF_VSOCK try dialer and listener on each other.
// There, vsock_loopback carries it, and who comes has another context ID than the host.
func TestVsockInAGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	init, err := microvm.TestProgram(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	vm, err := microvm.Start(ctx, microvm.Config{Init: init, Modules: []string{"vsock", "vsock_loopback"}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	if code, err := vm.Wait(ctx); err != nil || code != 0 {
		t.Errorf("exit code %d, %v; the console:\n%s", code, err, vm.Console())
	}
}

func guest() int {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if err := errors.Join(loopback(ctx), stranger(ctx), nobody(ctx)); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func loopback(ctx context.Context) error {
	listener, err := listenVsock(10240, unix.VMADDR_CID_LOCAL)
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept(ctx)
		if err != nil {
			fmt.Println("accepting:", err)
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, io.LimitReader(conn, 5))
	}()
	conn, err := (&vsock{cid: unix.VMADDR_CID_LOCAL, port: 10240}).Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	if echo, err := io.ReadAll(conn); err != nil || string(echo) != "hello" {
		return fmt.Errorf("echo is %q, %w", echo, err)
	}
	return nil
}

// stranger is what a container in the guest could do.
func stranger(ctx context.Context) error {
	listener, err := ListenVsock(10241)
	if err != nil {
		return err
	}
	defer listener.Close()
	accepted := make(chan error, 1)
	go func() {
		_, err := listener.Accept(ctx)
		accepted <- err
	}()
	conn, err := (&vsock{cid: unix.VMADDR_CID_LOCAL, port: 10241}).Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var is *StrangerError
	if err := <-accepted; !errors.As(err, &is) || is.CID != unix.VMADDR_CID_LOCAL {
		return fmt.Errorf("a stranger was taken for the host: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the stranger's connection stays open: %d, %w", n, err)
	}
	return nil
}

func nobody(ctx context.Context) error {
	if _, err := (&vsock{cid: unix.VMADDR_CID_LOCAL, port: 10242}).Dial(ctx); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("dialling where nobody listens: %w", err)
	}
	return nil
}
