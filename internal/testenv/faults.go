package testenv

import (
	"context"
	"fmt"
	"os"
)

// Names of a cluster's processes.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
)

// Kill ends processes of the cluster as kill -9 does, the first one first, and
// returns when they are gone. One that does not run is fine.
func (c *Cluster) Kill(names ...string) {
	for _, name := range names {
		if p := c.processes[name]; p != nil {
			p.stop()
		}
	}
}

// Revive starts those processes again that have been killed or have given up, at the
// same addresses and with the same data, and returns when the cluster is ready.
func (c *Cluster) Revive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	manager := c.processes[ControllerManager]
	if manager != nil && manager.ended() {
		// It would fail the wait for the others, and give up on an apiserver that is not ready.
		delete(c.processes, ControllerManager)
	}
	for _, name := range []string{Etcd, APIServer} {
		if p := c.processes[name]; p.ended() {
			if err := c.run(name, p.command.Args[2:]); err != nil {
				return err
			}
		}
	}
	if err := c.waitReady(ctx); err != nil {
		return err
	}
	if manager == nil || !manager.ended() {
		return nil
	}
	if err := c.run(ControllerManager, manager.command.Args[2:]); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

// Wipe ends all processes, forgets all that the cluster has stored, and starts it
// again at the same address: it becomes another cluster, with the same certificates.
func (c *Cluster) Wipe(ctx context.Context) error {
	c.Stop()
	if err := os.RemoveAll(c.path(Etcd)); err != nil {
		return fmt.Errorf("removing the test cluster's data: %w", err)
	}
	if err := c.Revive(ctx); err != nil {
		return fmt.Errorf("starting the test cluster anew: %w", err)
	}
	return nil
}

// ended tells whether the process has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
