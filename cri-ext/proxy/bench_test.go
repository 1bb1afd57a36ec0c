package proxy_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
)

// BenchmarkProxy tells what the proxy adds to a call: the median with it less the
// median without.
func BenchmarkProxy(b *testing.B) {
	pods := &runtimeapi.ListPodSandboxResponse{}
	for i := range 110 {
		pods.Items = append(pods.Items, &runtimeapi.PodSandbox{
			Id: fmt.Sprintf("%064x", i), Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprintf("pod-%d", i), Namespace: "vc-acme-default", Uid: fmt.Sprintf("%032d", i)},
			Labels:      map[string]string{"app": "web", "pod-template-hash": "abcdef", "io.kubernetes.pod.name": "x"},
			Annotations: map[string]string{"kubernetes.io/config.seen": "2026-01-01T00:00:00Z", "kubernetes.io/config.source": "api"},
		})
	}
	s := newStand(b, &runtime{list: func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return pods, nil
	}}, proxy.Methods{})
	direct, err := proxy.Dial(s.upstream)
	if err != nil {
		b.Fatal(err)
	}
	defer direct.Close()
	for name, call := range map[string]func(runtimeapi.RuntimeServiceClient) error{
		"Version": func(c runtimeapi.RuntimeServiceClient) error {
			_, err := c.Version(b.Context(), &runtimeapi.VersionRequest{})
			return err
		},
		"ListPodSandbox110": func(c runtimeapi.RuntimeServiceClient) error {
			_, err := c.ListPodSandbox(b.Context(), &runtimeapi.ListPodSandboxRequest{})
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			without := median(b, func() error { return call(runtimeapi.NewRuntimeServiceClient(direct)) })
			with := median(b, func() error { return call(runtimeapi.NewRuntimeServiceClient(s.conn)) })
			b.ReportMetric(float64(without.Nanoseconds())/1e3, "direct-µs-p50")
			b.ReportMetric(float64((with-without).Nanoseconds())/1e3, "added-µs-p50")
		})
	}
}

func median(b *testing.B, call func() error) time.Duration {
	for range 100 { // connect, and warm up
		if err := call(); err != nil {
			b.Fatal(err)
		}
	}
	took := make([]time.Duration, 0, b.N)
	for range b.N {
		began := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
