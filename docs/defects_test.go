package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A defect is kept away by a test, not by its name in a table.
func TestDefectsHaveTheirTests(t *testing.T) {
	declared := map[string]bool{}
	for _, folder := range []string{"syncer", "internal/tenancy"} {
		err := filepath.WalkDir(filepath.Join(root(t), folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, match := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
				declared[string(match[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(read(t, "docs", "defects.md"), -1)
	if len(named) < 30 {
		t.Errorf("%d tests are named", len(named))
	}
	for _, match := range named {
		if !declared[match[1]] {
			t.Errorf("there is no %s", match[1])
		}
	}
}
