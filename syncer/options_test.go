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
		"--workers-down=0":             "--workers-down",
		"--workers-per-tenant=-1":      "--workers-per-tenant",
		"--patrol-interval=0":          "",
		"--patrol-interval=1ms":        "--patrol-interval",
		"--tracing-endpoint=https://collector:4317": "",
		"--tracing-endpoint=collector:4317":         "--tracing-endpoint",
		"--tracing-ratio=NaN":                       "--tracing-ratio",
		"--tracing-ratio=1.1":                       "--tracing-ratio",
		"--patrol-rate=0":                           "--patrol-rate",
		"--patrol-rate=NaN":                         "--patrol-rate",
		"--leader-elect-namespace=bulkhead-system":  "",
		"--denied-networks= --resolvers=192.0.2.53,2001:db8::53 --pod-networks=10.78.0.0/16": "",
		"--denied-networks=10.0.0.1/8": "--denied-networks",
		"--allowed-networks=nowhere":   "--allowed-networks",
		"--pod-networks=10.78.0.0":     "--pod-networks",
		"--resolvers=dns.example.org":  "--resolvers",
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
