package main

import (
	"context"

	"github.com/go-logr/logr"

	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
)

// hooks tie the methods that cri-ext understands to the registry. A message that
// cannot be decoded hides nothing: the gate asks the runtime for what it does not
// know, and fails if that does not help.
func hooks(registry *sandbox.Registry, runtime *cri.Runtime, log logr.Logger) map[string]proxy.Hook {
	remove := func(decode func([]byte) (string, error)) func(context.Context, []byte) error {
		return func(_ context.Context, request []byte) error {
			id, err := decode(request)
			if err != nil {
				log.Error(err, "A call passes that was not understood")
				return nil
			}
			registry.Remove(id)
			return nil
		}
	}
	return map[string]proxy.Hook{
		cri.RunPodSandbox: {After: func(_ context.Context, request, response []byte) error {
			made, err := cri.DecodeRunPodSandbox(request, response)
			if err != nil {
				log.Error(err, "A call passes that was not understood")
				return nil
			}
			registry.Add(made)
			return nil
		}},
		cri.RestorePod: {After: func(ctx context.Context, request, response []byte) error {
			return restored(ctx, registry, runtime, log, request, response)
		}},
		cri.CreateContainer: {After: func(_ context.Context, request, response []byte) error {
			container, in, err := cri.DecodeCreateContainer(request, response)
			if err != nil {
				log.Error(err, "A call passes that was not understood")
				return nil
			}
			registry.AddContainer(container, in)
			return nil
		}},
		cri.StartContainer: {Before: func(ctx context.Context, request []byte) error {
			container, err := cri.DecodeStartContainer(request)
			if err != nil {
				return err
			}
			return registry.Gate(ctx, container)
		}},
		cri.StopPodSandbox:   {Before: remove(cri.DecodeStopPodSandbox)},
		cri.RemovePodSandbox: {Before: remove(cri.DecodeRemovePodSandbox)},
	}
}

// restored deals with a pod whose containers run already, out of a checkpoint, maybe
// with the rules of the time of that checkpoint: if the present ones do not get in, it
// is stopped.
func restored(ctx context.Context, registry *sandbox.Registry, runtime *cri.Runtime, log logr.Logger, request, response []byte) error {
	made, err := cri.DecodeRestorePod(request, response)
	if err != nil {
		return err
	}
	if made.Namespace != "" {
		registry.Add(made)
	}
	refusal := registry.GateSandbox(ctx, made.ID)
	if refusal == nil {
		return nil
	}
	registry.Remove(made.ID)
	if err := runtime.Stop(context.WithoutCancel(ctx), made.ID); err != nil {
		log.Error(err, "A restored pod without service rules could not be stopped", "sandbox", made.ID)
	}
	return refusal
}
