package main

import (
	"flag"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	for line, complaint := range map[string]string{
		"":                             "",
		"--leader-elect=false":         "",
		"extra":                        "unexpected arguments",
		"--metrics-bind-address=":      "--metrics-bind-address",
		"--health-probe-bind-address=": "--health-probe-bind-address",
		"--tenant-probe-interval=1ms":  "--tenant-probe-interval",
		"--leader-elect-namespace=bulkhead-system": "",
	} {
		o := defaults()
		flags := flag.NewFlagSet("syncer", flag.ContinueOnError)
		o.bind(flags)
		if err := flags.Parse(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		err := o.validate(flags.Args())
		if (complaint == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), complaint)) {
			t.Errorf("%q: %v", line, err)
		}
	}
}
