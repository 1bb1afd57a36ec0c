package process

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseHierarchies(t *testing.T) {
	const (
		root    = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
		cpu     = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
		memory  = "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		named   = "32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
		unified = "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
		v2      = "34 23 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
		again   = "35 23 0:27 / /other/memory rw - cgroup cgroup rw,memory\n"
	)
	for name, tc := range map[string]struct {
		mountinfo string
		want      Hierarchies
	}{
		"v2":       {root + v2, Hierarchies{{Mount: "/sys/fs/cgroup", Unified: true}}},
		"none":     {root, nil},
		"v1":       {root + cpu + memory, Hierarchies{{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}}, {Mount: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}}}},
		"hybrid":   {named + unified, Hierarchies{{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"name=systemd"}}, {Mount: "/sys/fs/cgroup/unified", Unified: true}}},
		"twice":    {memory + again, Hierarchies{{Mount: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}}}},
		"nonsense": {"x - \n - cgroup\n\n", nil},
	} {
		got, err := parseHierarchies(strings.NewReader(tc.mountinfo))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestUsedHierarchies(t *testing.T) {
	var (
		unified = Hierarchy{Mount: "/sys/fs/cgroup/unified", Unified: true}
		named   = Hierarchy{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"name=systemd"}}
		memory  = Hierarchy{Mount: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}}
		cpu     = Hierarchy{Mount: "/sys/fs/cgroup/cpu", Controllers: []string{"cpu", "cpuacct"}}
	)
	for name, tc := range map[string]struct{ all, want Hierarchies }{
		"v2":     {Hierarchies{unified}, Hierarchies{unified}},
		"hybrid": {Hierarchies{named, memory, unified, cpu}, Hierarchies{memory, cpu}},
		"v1":     {Hierarchies{memory, cpu}, Hierarchies{memory, cpu}},
	} {
		if diff := cmp.Diff(tc.want, tc.all.used()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func FuzzParseHierarchies(f *testing.F) {
	f.Add("31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
	f.Add("34 23 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
	f.Fuzz(func(t *testing.T, mountinfo string) {
		found, err := parseHierarchies(strings.NewReader(mountinfo))
		if err != nil {
			return
		}
		for _, h := range found {
			if h.Mount == "" {
				t.Fatal("a hierarchy without a mount point")
			}
		}
	})
}
