package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/bulkhead-dev/bulkhead/fence/connections"
	"github.com/bulkhead-dev/bulkhead/fence/links"
	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// bringUpToDate brings the kernel up to date, in one transaction.
func (a *agent) bringUpToDate() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problem = a.apply()
	if a.problem != nil {
		a.metrics.failures.Inc()
		return a.problem
	}
	close(a.applied)
	a.applied = make(chan struct{})
	a.tellProblems()
	if !a.enforced {
		a.enforced = true
		a.log.Info("the policies are in force", "pods", a.model.LocalPods(), "policies", a.model.Policies())
	}
	return nil
}

func (a *agent) apply() error {
	outside, err := links.Outside(a.routes, a.networks)
	if err != nil {
		return err
	}
	a.model.SetInterfaces(outside)
	started := time.Now()
	changed, err := a.kernel.Apply(a.model.Table())
	if err != nil {
		return err
	}
	if changed == 0 && a.enforced {
		return nil
	}
	a.metrics.apply.Observe(time.Since(started).Seconds())
	a.metrics.changes.Add(float64(changed))
	ask(a.cuts)
	return nil
}

// cutInterval is how often at most all connections are looked at.
const cutInterval = time.Second

// cutConnections ends connections that are not allowed any more, after each change
// of the rules. The direction from client to server is dropped by then in any case;
// a server that goes on sending by itself is stopped by this.
func (a *agent) cutConnections(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.cuts:
		}
		if err := a.cut(); err != nil {
			a.log.Error(err, "ending connections")
		}
		select {
		case <-ctx.Done():
		case <-time.After(cutInterval):
		}
	}
}

func (a *agent) cut() error {
	own, err := links.Addresses(a.routes)
	if err != nil {
		return err
	}
	count, err := connections.Cut(a.conntrack, func(packet table.Packet) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return allowed(a.model.Table(), own, packet)
	})
	a.metrics.cut.Add(float64(count))
	if count > 0 {
		a.log.V(1).Info("ended connections that are not allowed any more", "count", count)
	}
	return err
}

// allowed judges a connection as the kernel's rules do a packet of it. What the node
// itself sends is not judged.
func allowed(rules *table.Table, own map[netip.Addr]bool, packet table.Packet) bool {
	if own[packet.Source] {
		return true
	}
	passes, _ := rules.Egress(packet)
	if !passes || own[packet.Destination] {
		return passes
	}
	passes, _ = rules.Ingress(packet)
	return passes
}

// verify compares the kernel with what was put into it. If it differs, all is put
// there again.
func (a *agent) verify() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.announced.expire(time.Now())
	drift, err := a.kernel.Verify()
	switch {
	case err != nil:
		a.log.Error(err, "reading the kernel's rules")
	case len(drift) > 0:
		a.metrics.drifts.Inc()
		a.log.Info("somebody changed the kernel's rules; putting them back", "found", drift)
	default:
		return
	}
	a.kernel.Forget()
}
