package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSupported(t *testing.T) {
	for _, tc := range []struct {
		goos, goarch string
		uid          int
		want         string
	}{
		{"linux", "amd64", 0, ""},
		{"linux", "arm64", 0, ""},
		{"linux", "amd64", 1000, "sudo"},
		{"linux", "riscv64", 0, "linux/riscv64"},
		{"darwin", "arm64", 0, "virtual machine"},
	} {
		err := supported(tc.goos, tc.goarch, tc.uid)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s/%s as %d: error %v, want %q in it", tc.goos, tc.goarch, tc.uid, err, tc.want)
		}
	}
}

func TestEnoughDisk(t *testing.T) {
	if err := enoughDisk("/x", 5<<30, 4<<30); err != nil {
		t.Error(err)
	}
	err := enoughDisk("/x", 1<<30, 4<<30)
	if err == nil || !strings.Contains(err.Error(), "/x has 1.0 GiB of disk space left and 4 GiB are needed") {
		t.Errorf("error %v, want what there is and what is needed", err)
	}
}

const procNetTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0947 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0000000000000000 100 0 0 10 0
`

const procNetTCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:2814 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0000000000000000 100 0 0 10 0
`

func TestParseListeners(t *testing.T) {
	var got []string
	for _, text := range []string{procNetTCP, procNetTCP6} {
		found, err := parseListeners(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range found {
			got = append(got, l.address.String()+" "+l.inode)
		}
	}
	want := []string{"127.0.0.1:2375 111", "0.0.0.0:22 222", "[::]:6443 444", "127.0.0.1:10260 555"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add(procNetTCP)
	f.Add(procNetTCP6)
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parseListeners(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, l := range found {
			if !l.address.IsValid() {
				t.Fatalf("no address: %v", l)
			}
		}
	})
}

func TestConflict(t *testing.T) {
	taken := []listener{
		{netip.MustParseAddrPort("127.0.0.1:2379"), "1"},
		{netip.MustParseAddrPort("0.0.0.0:6443"), "2"},
		{netip.MustParseAddrPort("[::]:5000"), "3"},
	}
	for address, want := range map[string]bool{
		"127.0.0.1:2379": true, "127.0.0.1:2380": false, "172.31.77.1:2379": false, "172.31.77.1:6443": true, "172.31.77.1:5000": true,
	} {
		if _, got := conflict(netip.MustParseAddrPort(address), taken); got != want {
			t.Errorf("%s: conflict %v, want %v", address, got, want)
		}
	}
}

func TestHolder(t *testing.T) {
	proc := t.TempDir()
	fd := filepath.Join(proc, "42", "fd")
	if err := os.MkdirAll(fd, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[777]", filepath.Join(fd, "5")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "42", "comm"), []byte("etcd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := holder(proc, "777"); got != "process 42 (etcd)" {
		t.Errorf("holder %q", got)
	}
	if got := holder(proc, "77"); got != "another process" {
		t.Errorf("holder of an unknown socket %q", got)
	}
}

func TestSysctls(t *testing.T) {
	dir := t.TempDir()
	s := Sysctls{File: filepath.Join(dir, "record.json"), Dir: filepath.Join(dir, "sys")}
	write := func(name, value string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.Dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name, want string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil || string(data) != want {
			t.Errorf("%s is %q, %v; want %q", name, data, err, want)
		}
	}
	if err := s.Restore(); err != nil {
		t.Fatalf("restoring when nothing was changed: %v", err)
	}
	write("fs/low", "128\n")
	write("fs/high", "9000\n")
	write("vm/foreign", "0\n")
	for range 2 { // the second up must not take our values for the former ones
		if err := s.Raise("fs/low", 1000); err != nil {
			t.Fatal(err)
		}
		if err := s.Raise("fs/high", 1000); err != nil {
			t.Fatal(err)
		}
		if err := s.Raise("fs/unknown", 1000); err != nil {
			t.Fatal(err)
		}
		if err := s.Remember("vm/foreign", "vm/unknown"); err != nil {
			t.Fatal(err)
		}
		check("fs/low", "1000")
		check("fs/high", "9000\n")
		write("vm/foreign", "1")
	}
	if err := s.Restore(); err != nil {
		t.Fatal(err)
	}
	check("fs/low", "128")
	check("fs/high", "9000\n")
	check("vm/foreign", "0")
	if _, err := os.Stat(s.File); !os.IsNotExist(err) {
		t.Errorf("the record is left: %v", err)
	}
}

func TestRecordOfAnotherBootIsForgotten(t *testing.T) {
	data := []byte(`{"boot":"a","values":{"vm/x":"1"}}`)
	same, err := parseRecord(data, "a")
	if err != nil || same.Values["vm/x"] != "1" {
		t.Errorf("of this boot: %v, %v", same, err)
	}
	other, err := parseRecord(data, "b")
	if err != nil || len(other.Values) != 0 || other.Boot != "b" {
		t.Errorf("of another boot: %v, %v", other, err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"boot":"a","values":{"vm/x":"1"}}`))
	f.Add([]byte(`{"values":{"../../etc/passwd":"1"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data, "a")
		if err != nil {
			return
		}
		for name := range r.Values {
			if !filepath.IsLocal(name) {
				t.Fatalf("the record leads out of /proc/sys: %q", name)
			}
		}
	})
}
