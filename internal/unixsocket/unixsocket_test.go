package unixsocket

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestListenIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "s")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for file, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		info, err := os.Stat(file)
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %s, %v; want %s", file, info.Mode(), err, want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if err := CheckPeer(accepted, uint32(os.Getuid())); err != nil {
		t.Error(err)
	}
	if err := CheckPeer(accepted, uint32(os.Getuid())+1); err == nil {
		t.Error("this process passes for another user's")
	}
}

func TestListenReplacesWhatNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket that is in use: %v", err)
	}
	first.Close()
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("a socket that was left: %v", err)
	}
	second.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, "relative", "/" + strings.Repeat("x", 200)} {
		if _, err := Listen(bad); err == nil {
			t.Errorf("listening on %q", bad)
		}
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Error("a file that is no socket was replaced")
	}
}

// As another user, in a process of its own: the socket does not open.
func TestOthersCannotConnect(t *testing.T) {
	if path := os.Getenv("TEST_CONNECT"); path != "" {
		_, err := net.Dial("unix", path)
		fmt.Print(err)
		return
	}
	dir, err := os.MkdirTemp("", "bh-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	program := filepath.Join(dir, "test")
	copied, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, copied, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-test.run=TestOthersCannotConnect")
	command.Dir = dir
	command.Env = []string{"TEST_CONNECT=" + path}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("user nobody: %v\n%s", err, out)
	}
}

// As under systemd: the socket is the third descriptor, and connections wait in it.
func TestActivated(t *testing.T) {
	if os.Getenv("TEST_ACTIVATED") != "" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		listener, err := Activated()
		if err != nil || listener == nil {
			t.Fatalf("%v, %v", listener, err)
		}
		if os.Getenv("LISTEN_FDS") != "" {
			t.Fatal("the variables are still there")
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "activated")
		conn.Close()
		if err := Notify("READY=1"); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	listener.Close() // this process does not serve
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	command := exec.Command(os.Args[0], "-test.run=TestActivated$")
	command.Env = []string{"TEST_ACTIVATED=1", "LISTEN_FDS=1", "NOTIFY_SOCKET=" + filepath.Join(dir, "n")}
	command.ExtraFiles = []*os.File{file}
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if answer, err := io.ReadAll(conn); string(answer) != "activated" {
		t.Errorf("answer %q, %v", answer, err)
	}
	if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	told := make([]byte, 100)
	n, err := notify.Read(told)
	if string(told[:n]) != "READY=1" {
		t.Errorf("systemd was told %q, %v", told[:n], err)
	}
	// Without systemd there is none, whoever's variables are around.
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	if listener, err := Activated(); listener != nil || err != nil {
		t.Errorf("%v, %v", listener, err)
	}
	if err := Notify("READY=1"); err != nil {
		t.Error(err)
	}
}
