package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// asProgram makes the test's binary the program itself.
const asProgram = "SYNCER_TEST_AS_PROGRAM"

// auditPolicy has the super cluster write down who writes.
const auditPolicy = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
"rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}]}`

// auditArguments are those of the super cluster's apiserver.
func auditArguments(dir string) ([]string, error) {
	policy := filepath.Join(dir, "audit-policy.json")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + auditLog(dir), "--audit-log-mode=blocking"}, nil
}

func auditLog(dir string) string { return filepath.Join(dir, "audit.log") }

// replica is a process of the program.
type replica struct {
	t    *testing.T
	user string
	*exec.Cmd
	log  string
	done chan struct{}
}

// startReplica starts one with a user of its own, by which its writes are told apart.
func startReplica(t *testing.T, name string) *replica {
	t.Helper()
	r := &replica{t: t, user: "bulkhead-test:" + name + "-" + rand.String(5), log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	config, err := super.Grant(t.Context(), r.user, append(rbac.SuperRules(), rbac.PlatformNamespaceRules()...))
	must(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, config, 0o600))
	output, err := os.Create(r.log)
	must(t, err)
	defer output.Close()
	r.Cmd = exec.Command(os.Args[0], "--leader-elect-namespace=default", "--metrics-bind-address=0", "--health-probe-bind-address=0")
	r.Env = append(os.Environ(), asProgram+"=1", "KUBECONFIG="+path)
	r.Stdout, r.Stderr = output, output
	r.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, r.Start())
	go func() {
		_ = r.Wait() // how it ended is in ProcessState
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.Process.Kill()
		<-r.done
		if t.Failed() {
			content, _ := os.ReadFile(r.log)
			t.Logf("%s said:\n%s", name, content)
		}
	})
	return r
}

func (r *replica) signal(signal syscall.Signal) {
	r.t.Helper()
	must(r.t, r.Process.Signal(signal))
}

// ends returns how the process ended.
func (r *replica) ends() *os.ProcessState {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("%s does not end", r.user)
	}
	return r.ProcessState
}

// standsBy waits until a replica is there that could lead.
func (r *replica) standsBy() *replica {
	r.t.Helper()
	eventually(r.t, r.user+" to stand by", func(context.Context) error {
		content, err := os.ReadFile(r.log)
		if err == nil && !strings.Contains(strings.ToLower(string(content)), "attempting to acquire leader lease") {
			err = errors.New("it has not tried to acquire the lease yet")
		}
		return err
	})
	return r
}

// holders follows who holds the lease, from its first state on.
type holders struct {
	t     *testing.T
	watch watch.Interface
	lease *coordinationv1.Lease
}

func followLease(t *testing.T) *holders {
	t.Helper()
	clients, err := kubernetes.NewForConfig(super.Config)
	must(t, err)
	watcher, err := clients.CoordinationV1().Leases("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + leaderLease})
	must(t, err)
	t.Cleanup(watcher.Stop)
	return &holders{t: t, watch: watcher}
}

// next waits until somebody else holds the lease, or nobody.
func (h *holders) next() string {
	h.t.Helper()
	before := ""
	if h.lease != nil {
		before = *h.lease.Spec.HolderIdentity
	}
	deadline := time.After(patience)
	for {
		select {
		case event, open := <-h.watch.ResultChan():
			lease, ok := event.Object.(*coordinationv1.Lease)
			if !open || !ok {
				h.t.Fatalf("watching the lease: %v", event.Object)
			}
			first := h.lease == nil
			h.lease = lease
			if holder := *lease.Spec.HolderIdentity; first || holder != before {
				return holder
			}
		case <-deadline:
			h.t.Fatalf("the lease stays %q's", before)
		}
	}
}

// Whatever happens to the one that leads, the other one goes on, and no two write.
func TestElection(t *testing.T) {
	tn := newTenant(t, 0, nil)
	ctx := t.Context()
	first := startReplica(t, "first")
	tn.synced()
	ns := tn.namespace("election")
	carries := func(name string) {
		t.Helper()
		pod := newPod(ns, name)
		must(t, tn.client.Create(ctx, pod))
		tn.superPod(pod)
	}
	carries("by-first")
	lease := followLease(t)
	lease.next()

	// Asked to end, it gives the lease back, and nobody has to wait for it to expire.
	second := startReplica(t, "second").standsBy()
	first.signal(syscall.SIGTERM)
	if holder := lease.next(); holder != "" {
		t.Errorf("%s leads before the first has given the lease back", holder)
	}
	if lease.next() == "" {
		t.Error("nobody leads")
	}
	if state := first.ends(); !state.Success() {
		t.Errorf("the first ended with %v", state)
	}
	carries("by-second")

	// Killed, its lease expires.
	third := startReplica(t, "third").standsBy()
	second.signal(syscall.SIGKILL)
	if lease.next() == "" {
		t.Error("one that was killed has given the lease back")
	}
	carries("by-third")

	// Paused for longer than its lease holds, it wants to do what it has not done, but
	// another leads.
	startReplica(t, "fourth").standsBy()
	third.signal(syscall.SIGSTOP)
	if lease.next() == "" {
		t.Error("one that is paused has given the lease back")
	}
	taken := lease.lease.Spec.AcquireTime.Time
	carries("by-fourth")
	for i := range 20 {
		must(t, tn.client.Create(ctx, newPod(ns, fmt.Sprint("backlog-", i))))
	}
	third.signal(syscall.SIGCONT)
	if state := third.ends(); state.Success() {
		t.Error("one that was paused ended as if all were well")
	}
	carries("by-fourth-too")
	if late := writesOf(t, third.user, taken); len(late) > 0 {
		t.Errorf("two have written; the one that did not lead has done: %q", late)
	}
	if len(writesOf(t, third.user, time.Time{})) == 0 {
		t.Error("the log does not show what the third has written when it led")
	}
}

// writesOf are what a user has written in the super cluster after a time, but for
// the lease and what it says about itself.
func writesOf(t *testing.T, user string, after time.Time) []string {
	t.Helper()
	content, err := os.ReadFile(auditLog(super.Dir))
	must(t, err)
	var writes []string
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var entry struct {
			User                     struct{ Username string }
			Verb, RequestURI         string
			ObjectRef                struct{ Resource, Namespace, Name string }
			RequestReceivedTimestamp metav1.MicroTime
		}
		must(t, json.Unmarshal(line, &entry))
		if entry.User.Username != user || !entry.RequestReceivedTimestamp.After(after) {
			continue
		}
		if slices.Contains([]string{"leases", "events", "tokenreviews", "subjectaccessreviews"}, entry.ObjectRef.Resource) {
			continue
		}
		writes = append(writes, entry.Verb+" "+entry.RequestURI)
	}
	return writes
}
