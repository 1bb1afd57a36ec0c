// Package report holds what the syncer tells platform teams about itself, as its
// /debug pages serve it in JSON. Nobody else is told: names of tenants' objects are in it.
package report

import "time"

// Tenants is the answer of /debug/tenants.
type Tenants struct {
	// Leading: this replica works. One that stands by has no tenants.
	Leading bool     `json:"leading"`
	Tenants []Tenant `json:"tenants"`
}

// Tenant is how a tenant's link is.
type Tenant struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Synced, Reason and Message are those of the condition Synced, since then.
	Synced  bool      `json:"synced"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
	// Hangs: calls of the tenant's apiserver do, so that it has one worker.
	Hangs bool `json:"hangs,omitempty"`
	// Down and Up are the tenant's part of the queues.
	Down Queue `json:"down"`
	Up   Queue `json:"up"`
	// Patrol is nil where none has begun.
	Patrol *Patrol `json:"patrol,omitempty"`
}

// Queue is a tenant's part of a queue.
type Queue struct {
	// Waiting for a worker, with a worker, waiting for their time (Delayed), and of all
	// these those whose last handling failed.
	Waiting int `json:"waiting"`
	Running int `json:"running"`
	Delayed int `json:"delayed"`
	Failing int `json:"failing"`
	Weight  int `json:"weight"`
	// Workers that the tenant may have at a time.
	Workers int  `json:"workers"`
	Paused  bool `json:"paused,omitempty"`
}

// Patrol is where the patrol is with a tenant.
type Patrol struct {
	// Began is when the round began that goes on; nil between two rounds.
	Began *time.Time `json:"began,omitempty"`
	// LastEnded and LastResult (complete, aborted) are of the round before.
	LastEnded  *time.Time `json:"lastEnded,omitempty"`
	LastResult string     `json:"lastResult,omitempty"`
	// Next is when the next round is due.
	Next time.Time `json:"next"`
}

// State is where an object is with the syncer.
type State string

const (
	// Queued objects wait for a worker.
	Queued State = "queued"
	// Handled objects have one.
	Handled State = "handled"
	// Retrying objects failed, and are tried again later.
	Retrying State = "retrying"
	// Delayed objects are looked at again later.
	Delayed State = "delayed"
	// Idle objects are not looked at before something changes.
	Idle State = "idle"
)

// Object is the answer of /debug/objects.
type Object struct {
	// Tenant is the link's state; its object waits as long as that is not synced.
	Tenant Tenant `json:"tenant"`
	// Resource, Namespace and Name are the tenant's.
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Direction in which the kind goes: down or up.
	Direction string `json:"direction"`
	// State since then, and until then if it waits for a time.
	State State      `json:"state"`
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// Failures in a row, and what the last one said.
	Failures  int    `json:"failures,omitempty"`
	LastError string `json:"lastError,omitempty"`
	// Last is the last handling; nil where it was too long ago to be remembered.
	Last *Handling `json:"last,omitempty"`
	// InTenant and InSuper are UID and resourceVersion, as uid@version, of what the
	// caches of both sides show, or "-"; empty where they are not asked.
	InTenant string `json:"inTenant,omitempty"`
	InSuper  string `json:"inSuper,omitempty"`
}

// Handling is one that is over.
type Handling struct {
	At time.Time `json:"at"`
	// Seconds that it took.
	Seconds float64 `json:"seconds"`
	// Result is ok, wait, unreachable, error or panic.
	Result string `json:"result"`
	// Findings are what was refused or left out, by which rule.
	Findings []string `json:"findings,omitempty"`
}
