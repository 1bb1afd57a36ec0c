package ruleset

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// Recipient is a sandbox and the tenant it belongs to, by our own records.
type Recipient struct {
	Tenant  types.UID
	Sandbox string
}

// MismatchError says that rules of one tenant were about to go to another's
// sandbox. It is a defect of ours, whatever led to it.
type MismatchError struct {
	Recipient Recipient
	// Tenant is whose rules they are.
	Tenant types.UID
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("rules of tenant %s must not go to sandbox %s of tenant %s", e.Tenant, e.Recipient.Sandbox, e.Recipient.Tenant)
}

// Granted is a set, and how to get to it, that was found to be a sandbox's own.
// Nothing else can be sent to a sandbox, and Accept alone makes one (D13).
type Granted struct {
	recipient Recipient
	set       *Set
	delta     *Delta
}

// Accept grants the set to the recipient, or fails with a *MismatchError. delta is
// what leads to the set from the one before; nil if that is not at hand.
func (r Recipient) Accept(set *Set, delta *Delta) (Granted, error) {
	if r.Tenant == "" || r.Sandbox == "" || set.tenant != r.Tenant {
		return Granted{}, &MismatchError{Recipient: r, Tenant: set.tenant}
	}
	if delta != nil && delta.Tenant != r.Tenant {
		return Granted{}, &MismatchError{Recipient: r, Tenant: delta.Tenant}
	}
	if delta != nil && delta.To != set.generation {
		return Granted{}, fmt.Errorf("delta to generation %d does not lead to the rule set of generation %d", delta.To, set.generation)
	}
	return Granted{recipient: r, set: set, delta: delta}, nil
}

// For returns set and delta to a channel that leads to the recipient r, and fails
// with a *MismatchError at any other. delta may be nil.
func (g Granted) For(r Recipient) (*Set, *Delta, error) {
	if g.set == nil || g.recipient != r {
		return nil, nil, &MismatchError{Recipient: r, Tenant: g.recipient.Tenant}
	}
	return g.set, g.delta, nil
}
