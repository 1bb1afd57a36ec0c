// Hyperkube is one binary that holds the unmodified programs of a Kubernetes
// cluster. The name that it is called by, or its first argument, selects one.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

func main() {
	name, args, err := selectProgram(os.Args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "hyperkube: %v\n\n", err)
		usage(os.Stderr)
		os.Exit(2)
	}
	if name == "" {
		usage(os.Stdout)
		return
	}
	// The programs read os.Args themselves, kubectl even its own name.
	os.Args = args
	programs[name]()
}

// selectProgram returns the program that the command line args asks for and
// the command line to give to it. The name is empty when none is asked for.
func selectProgram(args []string) (name string, rest []string, err error) {
	if len(args) == 0 {
		return "", nil, nil
	}
	if base := filepath.Base(args[0]); programs[base] != nil {
		return base, args, nil
	}
	if len(args) == 1 || args[1] == "-h" || args[1] == "--help" || args[1] == "help" {
		return "", nil, nil
	}
	if base := filepath.Base(args[1]); programs[base] != nil {
		return base, args[1:], nil
	}
	return "", nil, fmt.Errorf("no program is called %q", args[1])
}

func usage(w io.Writer) {
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(w, "Usage: hyperkube PROGRAM [ARGUMENTS], or a link with the program's name to hyperkube.\n\nPrograms:\n  %s\n", strings.Join(names, "\n  "))
}
