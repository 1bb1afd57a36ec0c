package main

import (
	"flag"
	"testing"
)

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		good bool
	}{
		"defaults with a node":       {[]string{"--node-name=node-1"}, true},
		"no node":                    {[]string{"--node-name="}, false},
		"health for all":             {[]string{"--node-name=node-1", "--health-probe-bind-address=:10552"}, false},
		"health on the node's net":   {[]string{"--node-name=node-1", "--health-probe-bind-address=10.0.0.1:10552"}, false},
		"health on IPv6 loopback":    {[]string{"--node-name=node-1", "--health-probe-bind-address=[::1]:10552"}, true},
		"health at no address":       {[]string{"--node-name=node-1", "--health-probe-bind-address=10552"}, false},
		"a host name, whoever it is": {[]string{"--node-name=node-1", "--health-probe-bind-address=localhost:10552"}, false},
	} {
		var o options
		flags := flag.NewFlagSet(name, flag.ContinueOnError)
		o.bind(flags)
		if err := flags.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
