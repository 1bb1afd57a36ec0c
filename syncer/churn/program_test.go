//go:build churn

package churn

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// platformNamespace is where the syncer would run.
const platformNamespace = "bulkhead-system"

// program is the real syncer, with the rights that the chart gives it.
type program struct {
	path, kubeconfig, log, health string
	arguments                     []string

	mu      sync.Mutex
	running *exec.Cmd
	done    chan struct{}
	// starts counts how often it was started.
	starts int
}

// newProgram builds the syncer as the tree has it now: bin/ may be older.
func newProgram(t *testing.T, f *fleet) *program {
	t.Helper()
	kubeconfig, err := f.super.Grant(t.Context(), "churn:syncer", append(rbac.SuperRules(), rbac.PlatformNamespaceRules()...))
	must(t, err)
	health := testenv.FreeAddress(t)
	p := &program{path: filepath.Join(f.dir, "syncer"), kubeconfig: filepath.Join(f.dir, "syncer.kubeconfig"), log: filepath.Join(f.dir, "syncer.log"), health: health}
	must(t, os.WriteFile(p.kubeconfig, kubeconfig, 0o600))
	// Without the patrol: events alone have to suffice.
	p.arguments = append([]string{
		"--leader-elect=false", "--metrics-bind-address=0", "--health-probe-bind-address=" + health,
		"--tenant-probe-interval=500ms", "--patrol-interval=0",
	}, strings.Fields(f.settings.SyncerArgs)...)
	root, err := testenv.Root()
	must(t, err)
	if given := os.Getenv("CHURN_SYNCER"); given != "" {
		p.path = given
	} else if out, err := exec.CommandContext(t.Context(), "go", "build", "-p", "2", "-o", p.path, filepath.Join(root, "syncer")).CombinedOutput(); err != nil {
		t.Fatalf("building the syncer: %v\n%s", err, out)
	}
	t.Cleanup(p.kill)
	return p
}

// start starts the syncer, if it does not run.
func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return nil
	}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of the syncer: %w", err)
	}
	defer output.Close()
	command := exec.Command(p.path, p.arguments...)
	// The caches' objects are everybody's: whoever writes into one ends the program.
	command.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "KUBE_CACHE_MUTATION_DETECTOR=true")
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting the syncer: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = command.Wait() // how it ended shows in its log
		close(done)
	}()
	p.running, p.done = command, done
	p.starts++
	return nil
}

// kill ends the syncer as kill -9 does.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		_ = p.running.Process.Kill()
		<-p.done
		p.running = nil
	}
}

// supervise starts the syncer again whenever it ends by itself, as a kubelet would: it
// does if the super cluster is away while it starts.
func (p *program) supervise(ctx context.Context) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		ended := false
		if p.running != nil {
			select {
			case <-p.done:
				ended = true
				p.running = nil
			default:
			}
		}
		p.mu.Unlock()
		if ended {
			_ = p.start() // tried again at the next tick
		}
	}
}

// faulty returns what the log tells of faults of the program itself, which is started
// again after them as if nothing had happened.
func (p *program) faulty() ([]string, error) {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return nil, fmt.Errorf("reading the log of the syncer: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		for _, sign := range []string{"panic", "mutated", "fatal error", "DATA RACE"} {
			if strings.Contains(line, sign) {
				lines = append(lines, line)
				break
			}
		}
	}
	return lines, nil
}
