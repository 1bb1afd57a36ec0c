package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

func hint(t *testing.T, err error) string {
	t.Helper()
	var logged *progress.LogError
	if !errors.As(err, &logged) {
		t.Fatalf("error is %v, want a LogError", err)
	}
	return logged.Hint
}

func TestNoGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findToolchain(t.Context(), t.TempDir())
	if got := hint(t, err); !strings.Contains(got, "Install Go") || !strings.Contains(got, "sudo") {
		t.Errorf("hint is %q", got)
	}
}

func TestCheckVersion(t *testing.T) {
	tests := []struct {
		have, setting string
		ok            bool
	}{
		{minGo, "local", true},
		{"go1.26.8", "local", true},
		{"go1.27rc1", "local", true},
		{"go1.26.8 X:nodwarf5", "local", true},
		{"devel go1.28-abc", "local", true},
		{"go1.26.0", "local", false},
		{"go1.25.9", "local", false},
		{"go1.25.9 X:nodwarf5", "local", false},
		{"go1.25.9", "auto", true},
		{"go1.25.9", "go1.25.0+auto", true},
	}
	for _, tt := range tests {
		err := checkVersion(tt.have, tt.setting)
		if (err == nil) != tt.ok {
			t.Errorf("checkVersion(%q, %q) = %v, want it accepted: %v", tt.have, tt.setting, err, tt.ok)
		}
		if err != nil && !strings.Contains(hint(t, err), "GOTOOLCHAIN=auto") {
			t.Errorf("hint is %q", hint(t, err))
		}
	}
}

func TestCheckSpace(t *testing.T) {
	small := program{name: "small", from: upstream{}}
	big := program{name: "big", from: upstream{}, large: true}
	built, empty := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(built, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(built, "bin", "big"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		root  string
		stale []program
		need  uint64
	}{
		{"first build of all", empty, []program{small, big}, spaceFirst},
		{"a large one again", built, []program{small, big}, spaceLarge},
		{"small ones", empty, []program{small}, spaceOther},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, poor := range []string{tt.root, "/cache"} {
				free := func(bytes uint64) toolchain {
					return toolchain{caches: []string{"/modules", "/cache"}, free: func(dir string) (uint64, error) {
						if dir == poor {
							return bytes, nil
						}
						return 1 << 50, nil
					}}
				}
				if err := free(tt.need).checkSpace(tt.root, tt.stale); err != nil {
					t.Errorf("refused with just enough: %v", err)
				}
				err := free(tt.need-1).checkSpace(tt.root, tt.stale)
				if got := hint(t, err); !strings.Contains(got, "Free some space") || !strings.Contains(err.Error(), poor) {
					t.Errorf("error %v, hint %q, want them to name %s and what to do", err, got, poor)
				}
			}
		})
	}
}

func TestFreeBytes(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "not", "yet", "made")} {
		if free, err := freeBytes(path); err != nil || free == 0 {
			t.Errorf("freeBytes(%s) = %d, %v, want some", path, free, err)
		}
	}
}

func TestAdvice(t *testing.T) {
	for log, want := range map[string]string{
		"write /x: no space left on device":                               "disk space",
		"Get \"https://proxy.example/x\": dial tcp: lookup: no such host": "GOPROXY",
		"verifying module: checksum mismatch":                             "checksum",
		"compile: signal: killed":                                         "memory",
		"main.go:3: undefined: x":                                         "",
	} {
		got := advice(log)
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("advice(%q) = %q, want something of %q", log, got, want)
		}
	}
}

// TestGoEnvironment looks for settings of the user that would change programs.
func TestGoEnvironment(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=vendor -race")
	t.Setenv("GOWORK", "/elsewhere/go.work")
	t.Setenv("GOOS", "windows")
	t.Setenv("CGO_ENABLED", "1")
	if _, err := findToolchain(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	root := newTree(t)
	if _, err := BuildOnly(t.Context(), root, t.TempDir(), new(steps).step, own[0]); err != nil {
		t.Fatal(err)
	}
	if got := output(t, filepath.Join(root, "bin", own[0])); got != own[0]+"\n" {
		t.Errorf("the program prints %q", got)
	}
}
