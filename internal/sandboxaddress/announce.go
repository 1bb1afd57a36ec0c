// Package sandboxaddress is how cri-ext tells the fence of its node, over a local
// socket, which addresses a pod's new sandbox has: the kubelet tells the super cluster
// only after the first container has started, and until then the fence lets nothing
// through.
//
// One connection is one announcement: a JSON object of type Sandbox and its answer,
// each in a line. The answer comes once the kernel has the pod's rules.
package sandboxaddress

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// DefaultSocket is where the fence listens unless it is told otherwise.
const DefaultSocket = "/run/bulkhead-fence/sandboxes.sock"

// Sandbox is what is announced of a pod of this node.
type Sandbox struct {
	UID       types.UID    `json:"uid"`
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
}

type answer struct {
	// Error says why the pod's rules are not in the kernel; empty if they are.
	Error string `json:"error,omitempty"`
}

// Bounds of what a server takes.
const (
	maxLine      = 4 << 10
	maxAddresses = 8
	maxAtOnce    = 256
	readTimeout  = 5 * time.Second
)

// Announce tells the fence of a sandbox and returns nil once the pod's rules are in
// force. It waits as long as ctx lets it.
func Announce(ctx context.Context, socket string, sandbox Sandbox) error {
	conn, err := unixsocket.Dial(ctx, socket)
	if err != nil {
		return fmt.Errorf("reaching the fence: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(sandbox); err != nil {
		return fmt.Errorf("telling the fence of pod %s/%s: %w", sandbox.Namespace, sandbox.Name, err)
	}
	var got answer
	if err := json.NewDecoder(io.LimitReader(conn, maxLine)).Decode(&got); err != nil {
		return fmt.Errorf("waiting for the fence around pod %s/%s: %w", sandbox.Namespace, sandbox.Name, errors.Join(err, ctx.Err()))
	}
	if got.Error != "" {
		return fmt.Errorf("the fence around pod %s/%s: %s", sandbox.Namespace, sandbox.Name, got.Error)
	}
	return nil
}

// Serve answers announcements until the context ends. fence is called for each, and
// returns once the pod's rules are in force; its context ends with the connection.
// uid is the user that callers have to run as.
func Serve(ctx context.Context, listener *net.UnixListener, uid uint32, log logr.Logger, fence func(context.Context, Sandbox) error) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	slots := make(chan struct{}, maxAtOnce)
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting announcements of sandboxes: %w", err)
		}
		if err := unixsocket.CheckPeer(conn, uid); err != nil {
			log.Info("refused an announcement", "reason", err.Error())
			conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close() // the caller tries again
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			serveOne(ctx, conn, log, fence)
		})
	}
}

func serveOne(ctx context.Context, conn *net.UnixConn, log logr.Logger, fence func(context.Context, Sandbox) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var out answer
	reader := bufio.NewReader(io.LimitReader(conn, maxLine))
	sandbox, err := read(conn, reader)
	if err == nil {
		// A caller that goes away waits no more.
		go func() {
			_, _ = reader.ReadByte()
			cancel()
		}()
		err = fence(ctx, sandbox)
	}
	if err != nil {
		out.Error = err.Error()
		log.V(1).Info("announcement of a sandbox", "pod", sandbox.Namespace+"/"+sandbox.Name, "error", out.Error)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(readTimeout)); err == nil {
		_ = json.NewEncoder(conn).Encode(out) // a caller that went away does not care
	}
	// Ends the reader above.
	_ = conn.SetReadDeadline(time.Unix(1, 0))
}

func read(conn *net.UnixConn, reader *bufio.Reader) (Sandbox, error) {
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return Sandbox{}, fmt.Errorf("reading an announcement: %w", err)
	}
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return Sandbox{}, fmt.Errorf("reading an announcement: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return Sandbox{}, fmt.Errorf("reading an announcement: %w", err)
	}
	return parse(line)
}

// parse reads an announcement.
func parse(line []byte) (Sandbox, error) {
	var sandbox Sandbox
	if err := json.Unmarshal(line, &sandbox); err != nil {
		return Sandbox{}, fmt.Errorf("reading an announcement: %w", err)
	}
	switch {
	case sandbox.UID == "" || sandbox.Namespace == "" || sandbox.Name == "":
		return sandbox, errors.New("the announcement names no pod")
	case len(sandbox.Addresses) == 0 || len(sandbox.Addresses) > maxAddresses:
		return sandbox, fmt.Errorf("the announcement has %d addresses, and 1 to %d are wanted", len(sandbox.Addresses), maxAddresses)
	}
	for i, address := range sandbox.Addresses {
		if !address.IsValid() || address.Zone() != "" {
			return sandbox, fmt.Errorf("the announcement has the address %q", address)
		}
		sandbox.Addresses[i] = address.Unmap()
	}
	return sandbox, nil
}
