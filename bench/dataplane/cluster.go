package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/namespace"
	"github.com/bulkhead-dev/bulkhead/local/platform"
)

// What is measured in the embedded cluster, and how often.
const (
	benchNode  = "node-1"
	calls      = 2000
	updates    = 100
	benchPods  = 30
	benchSlice = "bench"
	podPrefix  = "bench-"
	patience   = 2 * time.Minute
)

// measureCluster uses the demo tenant of the cluster that `make up` has made.
func measureCluster(ctx context.Context, root string, r *result) error {
	l := layout.Layout{Root: root}
	data, err := os.ReadFile(platform.DemoKubeconfig(l))
	if err != nil {
		return fmt.Errorf("the embedded cluster is not up, run `make up` first: %w", err)
	}
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 500, 500
	tenant, err := client.New(config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		return err
	}
	if r.Proxy.P50, err = proxyAdded(ctx); err != nil {
		return err
	}
	socket, err := nodeSocket(admin.DefaultSocket)
	if err != nil {
		return err
	}
	criExt := admin.NewClient(socket)
	if r.Gate, err = gateAdded(ctx, criExt, tenant); err != nil {
		return err
	}
	r.Slice, err = sliceToKernel(ctx, criExt, tenant)
	return err
}

// nodeSocket is a path for a unix socket of the node that leads there from any
// thread: by a descriptor of its folder, which stays open until the end.
func nodeSocket(socket string) (path string, err error) {
	err = namespace.Do(namespace.Mount, layout.Mountns(benchNode), func() error {
		folder, err := unix.Open(filepath.Dir(socket), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		path = fmt.Sprintf("/proc/self/fd/%d/%s", folder, filepath.Base(socket))
		return err
	})
	if err != nil {
		err = fmt.Errorf("opening the folder of %s on %s: %w", socket, benchNode, err)
	}
	return path, err
}

// proxyAdded is by how much the median of a call to the runtime through cri-ext is
// longer than that of one past it, in microseconds. The two take turns.
func proxyAdded(ctx context.Context) (float64, error) {
	var times [2][]time.Duration
	var clients [2]runtimev1.RuntimeServiceClient
	for i, socket := range []string{"/run/containerd/containerd.sock", "/run/cri-ext-host/cri.sock"} {
		path, err := nodeSocket(socket)
		if err != nil {
			return 0, err
		}
		conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		clients[i] = runtimev1.NewRuntimeServiceClient(conn)
	}
	for n := range calls {
		for i, c := range clients {
			took, err := timed(func() error {
				_, err := c.Version(ctx, &runtimev1.VersionRequest{})
				return err
			})
			if err != nil {
				return 0, err
			}
			if n >= calls/10 { // the first warm up
				times[i] = append(times[i], took)
			}
		}
	}
	return float64((quantile(times[1], .5) - quantile(times[0], .5)).Microseconds()), nil
}

// bucket is a line of the histogram of what the gate let through.
var bucket = regexp.MustCompile(`^bulkhead_cri_ext_gate_wait_seconds_bucket\{result="passed",le="([^"]+)"\} (\d+)`)

// gateHistogram counts starts by the upper bound of their wait in seconds.
func gateHistogram(ctx context.Context, criExt *admin.Client) (bounds []float64, counts []float64, err error) {
	var text []byte
	if err := criExt.Get(ctx, "/metrics", nil, &text); err != nil {
		return nil, nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if match := bucket.FindStringSubmatch(lines.Text()); match != nil {
			bound, err := strconv.ParseFloat(match[1], 64)
			if err != nil {
				return nil, nil, err
			}
			count, err := strconv.ParseFloat(match[2], 64)
			if err != nil {
				return nil, nil, err
			}
			bounds, counts = append(bounds, bound), append(counts, count)
		}
	}
	return bounds, counts, nil
}

// gateAdded starts pods on one node and reads from cri-ext how long it held their
// containers. Within a bucket of the histogram the waits are taken to be even.
func gateAdded(ctx context.Context, criExt *admin.Client, tenant client.Client) (quantiles, error) {
	_, before, err := gateHistogram(ctx, criExt)
	if err != nil {
		return quantiles{}, err
	}
	started := 0
	for i := range benchPods {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: podPrefix + strconv.Itoa(i)},
			Spec: corev1.PodSpec{
				NodeSelector:                  map[string]string{corev1.LabelHostname: benchNode},
				TerminationGracePeriodSeconds: ptr.To[int64](0),
				Containers:                    []corev1.Container{{Name: "main", Image: "docker.io/library/busybox:1.37", Command: []string{"sleep", "1000000"}}},
			},
		}
		if err := tenant.Create(ctx, pod); err != nil {
			return quantiles{}, err
		}
		defer func() {
			_ = tenant.Delete(context.WithoutCancel(ctx), pod) // the tenant's end takes it too
		}()
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
			err := tenant.Get(ctx, client.ObjectKeyFromObject(pod), pod)
			return pod.Status.Phase == corev1.PodRunning, err
		})
		if err != nil {
			return quantiles{}, fmt.Errorf("waiting for pod %s: %w", pod.Name, err)
		}
		started++
	}
	bounds, after, err := gateHistogram(ctx, criExt)
	if err != nil {
		return quantiles{}, err
	}
	for i := range before {
		after[i] -= before[i]
	}
	if len(after) == 0 || after[len(after)-1] < float64(started) {
		return quantiles{}, fmt.Errorf("cri-ext has let through %v of %d containers", after, started)
	}
	return quantiles{P50: histogramQuantile(bounds, after, .5), P99: histogramQuantile(bounds, after, .99)}, nil
}

// histogramQuantile interpolates within the bucket, in milliseconds.
func histogramQuantile(bounds, cumulative []float64, q float64) float64 {
	rank := q * cumulative[len(cumulative)-1]
	low, below := 0.0, 0.0
	for i, count := range cumulative {
		if count >= rank && count > below {
			return 1000 * (low + (bounds[i]-low)*(rank-below)/(count-below))
		}
		low, below = bounds[i], count
	}
	return 1000 * low
}

// sliceToKernel writes an EndpointSlice of a Service without selector again and
// again, and looks into the kernel of one of the tenant's sandboxes until the new
// endpoint is there. The look takes about a millisecond.
func sliceToKernel(ctx context.Context, criExt *admin.Client, tenant client.Client) (quantiles, error) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: benchSlice},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if err := tenant.Create(ctx, service); err != nil {
		return quantiles{}, err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: benchSlice, Labels: map[string]string{discoveryv1.LabelServiceName: benchSlice}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.78.250.1"}}},
	}
	if err := tenant.Create(ctx, slice); err != nil {
		return quantiles{}, err
	}
	defer func() {
		after := context.WithoutCancel(ctx)
		_ = errors.Join(tenant.Delete(after, slice), tenant.Delete(after, service))
	}()
	var views []sandbox.View
	if err := criExt.Get(ctx, "/pods", nil, &views); err != nil {
		return quantiles{}, err
	}
	// Not one of the pods that are about to go.
	i := slices.IndexFunc(views, func(v sandbox.View) bool { return v.Services > 0 && !strings.HasPrefix(v.Name, podPrefix) })
	if i < 0 {
		return quantiles{}, fmt.Errorf("no sandbox on %s holds rules", benchNode)
	}
	var times []time.Duration
	for n := range updates {
		address := netip.AddrFrom4([4]byte{10, 78, 250, byte(n + 2)})
		slice.Endpoints[0].Addresses = []string{address.String()}
		if err := tenant.Update(ctx, slice); err != nil {
			return quantiles{}, err
		}
		took, err := timed(func() error {
			return inKernel(ctx, criExt, views[i].Sandbox, netip.MustParseAddr(service.Spec.ClusterIP), netip.AddrPortFrom(address, 8080))
		})
		if err != nil {
			return quantiles{}, err
		}
		times = append(times, took)
	}
	return quantiles{P50: milliseconds(quantile(times, .5)), P99: milliseconds(quantile(times, .99))}, nil
}

// inKernel returns once the sandbox's kernel leads the address to the endpoint.
func inKernel(ctx context.Context, criExt *admin.Client, id string, address netip.Addr, endpoint netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var rules admin.Rules
		if err := criExt.Get(ctx, "/rules", url.Values{"pod": {id}, "live": {"1"}}, &rules); err != nil {
			return err
		}
		for _, s := range rules.Services {
			if s.Address == address && slices.Contains(s.Endpoints, endpoint) {
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for %s in the kernel of %s: %w", endpoint, filepath.Base(id), err)
		}
	}
}
