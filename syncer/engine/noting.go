package engine

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// noting is a client that calls no apiserver: it notes what it was asked for. Before
// they delete something, kinds ask the apiserver itself whether what they miss is gone; to
// ask is noted as a deletion, for which handling the key then asks.
type noting struct {
	client.Client
	rehearsal *rehearsal
}

func (n noting) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return n.rehearsal.note(Orphan)
}

func (n noting) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return n.rehearsal.note(Orphan)
}

func (n noting) Create(context.Context, client.Object, ...client.CreateOption) error {
	return n.rehearsal.note(Missing)
}

func (n noting) Delete(context.Context, client.Object, ...client.DeleteOption) error {
	return n.rehearsal.note(Orphan)
}

func (n noting) DeleteAllOf(context.Context, client.Object, ...client.DeleteAllOfOption) error {
	return n.rehearsal.note(Orphan)
}

func (n noting) Update(context.Context, client.Object, ...client.UpdateOption) error {
	return n.rehearsal.note(Drift)
}

func (n noting) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return n.rehearsal.note(Drift)
}

func (n noting) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return n.rehearsal.note(Drift)
}

func (n noting) Status() client.SubResourceWriter { return n.SubResource("status") }

func (n noting) SubResource(string) client.SubResourceClient { return notingPart{n.rehearsal} }

// notingPart does the same for a part of an object, such as its status or binding.
type notingPart struct {
	rehearsal *rehearsal
}

func (n notingPart) Get(context.Context, client.Object, client.Object, ...client.SubResourceGetOption) error {
	return n.rehearsal.note(Drift)
}

func (n notingPart) Create(context.Context, client.Object, client.Object, ...client.SubResourceCreateOption) error {
	return n.rehearsal.note(Drift)
}

func (n notingPart) Update(context.Context, client.Object, ...client.SubResourceUpdateOption) error {
	return n.rehearsal.note(Drift)
}

func (n notingPart) Patch(context.Context, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
	return n.rehearsal.note(Drift)
}

func (n notingPart) Apply(context.Context, runtime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
	return n.rehearsal.note(Drift)
}
