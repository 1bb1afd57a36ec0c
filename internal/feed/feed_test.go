package feed

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

var pod = Pod{UID: "p1", Namespace: "vc-a-default-x", Name: "web-0", Tenant: "a"}

func TestWhatIsPutArrives(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	server, _ := serve(t, socket, receiver)
	client, _ := connect(t, socket)
	client.PutPod(pod)
	client.PutPod(Pod{UID: "p2", Namespace: "vc-a-default-x", Name: "web-1", Tenant: "a", ControlPlane: true})
	client.PodsComplete()
	client.SetPending("a", "its apiserver does not answer")
	eventually(t, "pods and reason", func() bool {
		receiver.mu.Lock()
		defer receiver.mu.Unlock()
		return len(receiver.pods) == 2 && receiver.complete && receiver.pods["p1"] == pod && receiver.pending["a"] != ""
	})
	client.RemovePod("p1")
	first := put(t, client, "a", services(100, 80))
	eventually(t, "the set", holds(receiver, "a", first))
	put(t, client, "a", services(100, 80))
	changed := services(100, 80)
	changed[7].Endpoints = nil
	trigger := time.Unix(1700000000, 5)
	if err := client.PutRules("a", slices.Clone(ranges), changed, trigger); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the delta", func() bool { return len(receiver.told()) == 2 })
	want := []string{"a 1: set", "a 2: delta of 1 from 1"}
	if diff := cmp.Diff(want, receiver.told()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	receiver.locked(func() {
		if !receiver.trigger.Equal(trigger) {
			t.Errorf("trigger %s, want %s", receiver.trigger, trigger)
		}
		if _, there := receiver.pods["p1"]; there {
			t.Error("a removed pod is still there")
		}
	})
	text, err := client.Metrics(t.Context())
	if err != nil || string(text) != "up 1\n" {
		t.Errorf("metrics %q, %v", text, err)
	}
	server.Report(Report{Pod: pod, Reason: RulesInjected, Message: "100 services"})
	if report := <-client.Reports(); report.Pod != pod || report.Reason != RulesInjected {
		t.Errorf("report %+v", report)
	}
	client.Forget("a")
	eventually(t, "forgetting", func() bool { return receiver.Rules("a") == nil })
}

func TestInvalidRulesAreTheCallersError(t *testing.T) {
	client := NewClient("/nowhere", testr.New(t))
	twice := append(services(1, 80), services(1, 81)...)
	if err := client.PutRules("a", nil, twice, time.Time{}); err == nil {
		t.Error("two services of one key were taken")
	}
	if _, err := client.Metrics(t.Context()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("metrics without a connection: %v", err)
	}
}

// The feeder restarts: it goes on from the number that the server holds, and sends
// nothing that the server has.
func TestFeederRestarts(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	serve(t, socket, receiver)
	client, stop := connect(t, socket)
	eventually(t, "the first set", holds(receiver, "a", put(t, client, "a", services(3, 80))))
	eventually(t, "the second set", holds(receiver, "a", put(t, client, "a", services(4, 80))))
	same := put(t, client, "b", services(5, 80))
	eventually(t, "the other tenant's set", holds(receiver, "b", same))
	client.PutPod(pod)
	eventually(t, "the pod", func() bool { receiver.mu.Lock(); defer receiver.mu.Unlock(); return len(receiver.pods) == 1 })
	stop()

	client, _ = connect(t, socket)
	put(t, client, "b", services(5, 80)) // perhaps before it is connected
	client.PutPod(Pod{UID: "p2", Namespace: "vc-a-default-x", Name: "web-1", Tenant: "a"})
	client.PodsComplete()
	eventually(t, "an account without the first pod", func() bool {
		receiver.mu.Lock()
		defer receiver.mu.Unlock()
		_, there := receiver.pods["p1"]
		return receiver.complete && len(receiver.pods) == 1 && !there
	})
	eventually(t, "a changed set", holds(receiver, "a", put(t, client, "a", services(3, 81))))
	if n := receiver.Rules("a").Generation(); n != 3 {
		t.Errorf("generation %d after a restart, want 3", n)
	}
	if n := counted(receiver.told(), "b "); n != 1 {
		t.Errorf("the rules that did not change came %d times: %q", n, receiver.told())
	}
}

// A tenant that went while no feeder was there is forgotten, and may come back.
func TestStrangersAreForgotten(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	serve(t, socket, receiver)
	client, stop := connect(t, socket)
	eventually(t, "the first set", holds(receiver, "a", put(t, client, "a", services(3, 80))))
	stop()
	client, _ = connect(t, socket)
	client.PodsComplete()
	eventually(t, "forgetting", func() bool { return receiver.Rules("a") == nil })
	eventually(t, "the set again", holds(receiver, "a", put(t, client, "a", services(3, 80))))
}

// cri-ext restarts: everything is said again, under the number it had.
func TestServerRestarts(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	_, stop := serve(t, socket, receiver)
	client, _ := connect(t, socket)
	client.PutPod(pod)
	client.PodsComplete()
	put(t, client, "a", services(9, 80))
	eventually(t, "a set", holds(receiver, "a", put(t, client, "a", services(10, 80))))
	generation := receiver.Rules("a").Generation()
	stop()

	again := newRecorder()
	serve(t, socket, again)
	digest := put(t, client, "a", services(10, 80))
	eventually(t, "the set again", holds(again, "a", digest))
	eventually(t, "the pod again", func() bool {
		again.mu.Lock()
		defer again.mu.Unlock()
		return again.complete && again.pods["p1"] == pod
	})
	if n := again.Rules("a").Generation(); n != generation {
		t.Errorf("generation %d, want %d", n, generation)
	}
}

// Changes made while nobody listens arrive as one.
func TestChangesWhileAway(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	_, stop := serve(t, socket, receiver)
	client, _ := connect(t, socket)
	eventually(t, "a set", holds(receiver, "a", put(t, client, "a", services(50, 80))))
	stop()
	eventually(t, "the end of the connection", func() bool { return !client.Connected() })
	for n := 51; n < 60; n++ {
		put(t, client, "a", services(n, 80))
	}
	serve(t, socket, receiver)
	eventually(t, "the last set", holds(receiver, "a", put(t, client, "a", services(60, 80))))
	if diff := cmp.Diff([]string{"a 1: set", "a 11: delta of 10 from 1"}, receiver.told()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// A server that holds something else than the client thinks gets the whole set.
func TestServerLostItsRules(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	serve(t, socket, receiver)
	client, _ := connect(t, socket)
	eventually(t, "a set", holds(receiver, "a", put(t, client, "a", services(50, 80))))
	other, err := ruleset.New("a", 1, nil, services(50, 99))
	if err != nil {
		t.Fatal(err)
	}
	receiver.locked(func() { receiver.rules["a"] = other })
	eventually(t, "a whole set instead of a delta", holds(receiver, "a", put(t, client, "a", services(51, 80))))
	receiver.locked(func() { delete(receiver.rules, "a") })
	eventually(t, "a whole set where there is none", holds(receiver, "a", put(t, client, "a", services(52, 80))))
	receiver.locked(func() { receiver.rules["a"] = other.WithGeneration(1 << 40) })
	eventually(t, "a whole set with a higher number", holds(receiver, "a", put(t, client, "a", services(53, 80))))
	if n := receiver.Rules("a").Generation(); n != 1<<40+1 {
		t.Errorf("generation %d, want %d", n, uint64(1<<40+1))
	}
}

func TestNewerFeederReplacesOlder(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	serve(t, socket, receiver)
	older, _ := connect(t, socket)
	eventually(t, "the older one's set", holds(receiver, "a", put(t, older, "a", services(1, 80))))
	newer, _ := connect(t, socket)
	eventually(t, "the newer one's connection", newer.Connected)
	eventually(t, "the older one's end", func() bool { return !older.Connected() })
	eventually(t, "the newer one's set", holds(receiver, "a", put(t, newer, "a", services(2, 80))))
	receiver.locked(func() {
		if receiver.connected != 1 {
			t.Errorf("%d feeders at once", receiver.connected)
		}
	})
}

// One that does not say hello is in nobody's way.
func TestSilentFeederIsReplaced(t *testing.T) {
	socket, receiver := socketIn(t), newRecorder()
	serve(t, socket, receiver)
	rawClient(t, socket)
	rawClient(t, socket)
	client, _ := connect(t, socket)
	eventually(t, "a set", holds(receiver, "a", put(t, client, "a", services(1, 80))))
}

func TestOtherUsersAreRefused(t *testing.T) {
	socket := socketIn(t)
	listener, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	receiver := newRecorder()
	server := NewServer(receiver, nil, uint32(os.Getuid())+1, testr.New(t))
	run(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	conn := rawClient(t, socket)
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v; want to be turned away without a word", n, err)
	}
	receiver.locked(func() {
		if receiver.connected != 0 {
			t.Error("the receiver heard of it")
		}
	})
}

// What is no message ends the connection and nothing else.
func TestGarbageEndsTheConnection(t *testing.T) {
	greeting := func(w *frame.Writer) error { return writeJSON(w, kindClientHello, hello{Version: version}) }
	for name, say := range map[string]func(net.Conn, *frame.Writer) error{
		"no frame": func(c net.Conn, _ *frame.Writer) error {
			_, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			return err
		},
		"another version": func(_ net.Conn, w *frame.Writer) error { return writeJSON(w, kindClientHello, hello{Version: 99}) },
		"no greeting":     func(_ net.Conn, w *frame.Writer) error { return w.Write(kindPodsComplete, nil) },
		"a set of garbage": func(_ net.Conn, w *frame.Writer) error {
			return errors.Join(greeting(w), writeBytes(w, kindSet, make([]byte, 30)))
		},
		"a pod without UID": func(_ net.Conn, w *frame.Writer) error {
			return errors.Join(greeting(w), writeJSON(w, kindPod, Pod{Name: "x"}))
		},
		"4 GiB": func(c net.Conn, w *frame.Writer) error {
			if err := greeting(w); err != nil {
				return err
			}
			_, err := c.Write([]byte{0xB5, 'b', 'h', 0x1A, kindSet, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket, receiver := socketIn(t), newRecorder()
			serve(t, socket, receiver)
			conn := rawClient(t, socket)
			// The other end may have had enough already.
			if err := say(conn, frame.NewWriter(conn)); err != nil && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection is still open")
			}
			client, _ := connect(t, socket)
			eventually(t, "somebody else's set", holds(receiver, "a", put(t, client, "a", services(1, 80))))
		})
	}
}

// Reports without a feeder are kept up to a bound.
func TestReportsAreBounded(t *testing.T) {
	server := NewServer(newRecorder(), nil, 0, testr.New(t))
	for range reportsQueued + 10 {
		server.Report(Report{Pod: pod})
	}
	if len(server.reports) != reportsQueued || server.Dropped() != 10 {
		t.Errorf("%d are kept and %d dropped", len(server.reports), server.Dropped())
	}
}
