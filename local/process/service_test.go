package process

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	good := Service{Name: "node-1-kubelet", Command: []string{"/bin/x"}, Log: "/x.log", Cgroup: "a/b"}
	with := func(change func(*Service)) Service {
		s := good
		change(&s)
		return s
	}
	for want, s := range map[string]Service{
		"":              good,
		"lower case":    with(func(s *Service) { s.Name = "../etcd" }),
		"absolute path": with(func(s *Service) { s.Command = []string{"x"} }),
		"the command":   with(func(s *Service) { s.Command = nil }),
		"the log":       with(func(s *Service) { s.Log = "x.log" }),
		"negative":      with(func(s *Service) { s.StopTimeout = -1 }),
		"cgroup":        with(func(s *Service) { s.Cgroup = "../other" }),
	} {
		err := s.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q in it", s, err, want)
		}
	}
}

func TestNextPauseIsBounded(t *testing.T) {
	pause, total := firstPause, 0
	for pause < longestWait {
		if next := nextPause(pause); next <= pause {
			t.Fatalf("after %v comes %v", pause, next)
		}
		pause = nextPause(pause)
		if total++; total > 20 {
			t.Fatal("the pauses hardly grow")
		}
	}
	if pause != longestWait || nextPause(pause) != longestWait {
		t.Errorf("the longest pause is %v, then %v", pause, nextPause(pause))
	}
}

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := rotate(path, 10); err != nil {
		t.Fatalf("rotating a log that is not there: %v", err)
	}
	program, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, step := range []struct{ write, log, old string }{
		{"0123456789", "0123456789", ""},
		{"abc", "", "0123456789abc"},
		{"more", "more", "0123456789abc"},
		// Of one that ran away the end is kept, twice the limit of it.
		{"-a123456789-b123456789", "", "123456789-b123456789"},
	} {
		if _, err := program.WriteString(step.write); err != nil {
			t.Fatal(err)
		}
		if err := rotate(path, 10); err != nil {
			t.Fatal(err)
		}
		if log, old := read(path), read(path+".1"); log != step.log || old != step.old {
			t.Errorf("after %q: log %q and old log %q, want %q and %q", step.write, log, old, step.log, step.old)
		}
	}
}

func FuzzParseState(f *testing.F) {
	valid, err := json.Marshal(State{Service: "etcd", Supervisor: Identity{1, 2, "b"}, Child: Identity{3, 4, "b"}, Started: time.Unix(0, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte(`{"service":"etcd","child":{"pid":-1}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseState(data)
		if err == nil && (s.Child.PID < 0 || s.Supervisor.PID < 0 || strings.ContainsAny(s.Service, "/.")) {
			t.Fatalf("read %+v, which names no process or no service", s)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(`{"service":{"name":"etcd","command":["/bin/x"],"log":"/x.log"},"fingerprint":"x"}`))
	f.Add([]byte(`{"service":{"name":"../x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseSpec(data); err == nil && s.Service.Validate() != nil {
			t.Fatal("read a service that is not valid")
		}
	})
}
