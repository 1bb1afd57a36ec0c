package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// measureMemory runs tenant-proxy and cri-ext with a tenant of 10,000 Services,
// between real apiservers that play super cluster and tenant.
func measureMemory(ctx context.Context, root string, r *result) (err error) {
	dir, err := os.MkdirTemp("", "bh-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tenant := tenancy.Tenant{UID: "bench-tenant", Namespace: "bench", Name: "bench"}
	var clusters [2]*testenv.Cluster
	for i, name := range []string{"super", "tenant"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		cluster, err := testenv.Start(ctx, path, testenv.Options{})
		if err != nil {
			return err
		}
		defer cluster.Stop()
		clusters[i] = cluster
	}
	if err := introduce(ctx, tenant, clusters[0], clusters[1]); err != nil {
		return err
	}
	if err := fill(ctx, clusters[1], sizes[len(sizes)-1]); err != nil {
		return err
	}
	kubeconfigFile := filepath.Join(dir, "super.kubeconfig")
	if err := os.WriteFile(kubeconfigFile, clusters[0].Kubeconfig, 0o600); err != nil {
		return err
	}
	socket := func(name string) string { return filepath.Join(dir, name+".sock") }
	criExt, err := start(root, dir, "", "cri-ext", "serve", "--listen="+socket("cri"), "--runtime="+socket("no-runtime"), "--feed="+socket("feed"), "--admin="+socket("admin"))
	if err != nil {
		return err
	}
	defer end(criExt)
	proxy, err := start(root, dir, kubeconfigFile, "tenant-proxy",
		"--node-name="+benchNode, "--cri-ext-socket="+socket("feed"), "--metrics-bind-address=0", "--health-probe-bind-address=127.0.0.1:0")
	if err != nil {
		return err
	}
	defer end(proxy)
	if err := awaitRules(ctx, socket("admin"), string(tenant.UID), sizes[len(sizes)-1]); err != nil {
		return fmt.Errorf("%w; logs: %s", err, lastOutput(dir))
	}
	if r.Memory.TenantProxy, err = resident(proxy); err != nil {
		return err
	}
	r.Memory.CRIExt, err = resident(criExt)
	return err
}

// introduce makes in the super cluster what vc-manager and syncer would: the
// tenant's credentials and a pod of it on the node.
func introduce(ctx context.Context, tenant tenancy.Tenant, super, own *testenv.Cluster) error {
	plane := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenant.ControlPlaneNamespace()}}
	tenancy.MarkTenant(plane, tenant, tenancy.ManagedByManager)
	plane.Labels[tenancy.LabelControlPlane] = "true"
	web := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenant.SuperNamespace("web")}}
	tenancy.Mark(web, tenant, tenancy.ManagedBySyncer, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "web"}})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: plane.Name, Name: tenancy.TenantProxyKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: own.Kubeconfig, tenancy.ServiceCIDRKey: []byte("10.96.0.0/16")},
	}
	tenancy.MarkTenant(secret, tenant, tenancy.ManagedByManager)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: web.Name, Name: "client"},
		Spec:       corev1.PodSpec{NodeName: benchNode, Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	tenancy.Mark(pod, tenant, tenancy.ManagedBySyncer, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "client", UID: "client"}})
	for _, object := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: benchNode}}, plane, web,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: web.Name, Name: "default"}}, secret, pod,
	} {
		if err := super.Client.Create(ctx, object); err != nil {
			return fmt.Errorf("creating %T %s: %w", object, object.GetName(), err)
		}
	}
	return nil
}

// fill makes Services of two endpoints each.
func fill(ctx context.Context, cluster *testenv.Cluster, count int) error {
	config := *cluster.Config
	config.QPS, config.Burst = 2000, 2000
	c, err := client.New(&config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range count {
		group.Go(func() error {
			name := fmt.Sprintf("service-%d", i)
			address := serviceAddress(i)
			err := c.Create(ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       corev1.ServiceSpec{ClusterIP: address.String(), Ports: []corev1.ServicePort{{Port: 80}}},
			})
			if err != nil {
				return err
			}
			host := netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)})
			return c.Create(ctx, &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
				Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{host.String()}}, {Addresses: []string{"10.79.0.1"}}},
			})
		})
	}
	return group.Wait()
}

// start runs a program of bin/ with its output in dir, and with its own settings of
// memory, whatever this process was given.
func start(root, dir, kubeconfigFile, program string, args ...string) (*exec.Cmd, error) {
	output, err := os.Create(filepath.Join(dir, program+".log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.Command(filepath.Join(root, "bin", program), args...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfigFile}
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	return command, nil
}

func end(command *exec.Cmd) {
	_ = command.Process.Kill() // it may have ended
	_ = command.Wait()
}

func lastOutput(dir string) string {
	var text strings.Builder
	for _, program := range []string{"cri-ext", "tenant-proxy"} {
		data, _ := os.ReadFile(filepath.Join(dir, program+".log"))
		text.Write(data[max(0, len(data)-1000):])
	}
	return text.String()
}

// awaitRules returns once cri-ext says that it holds the tenant's rules, and some
// seconds later, when what reading them took has been given back.
func awaitRules(ctx context.Context, socket, tenant string, services int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	want := fmt.Sprintf("bulkhead_cri_ext_rules{kind=\"services\",tenant=%q} ", tenant)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	for since.IsZero() || time.Since(since) < 10*time.Second {
		var text []byte
		if err := admin.NewClient(socket).Get(ctx, "/metrics", nil, &text); err == nil && since.IsZero() {
			for line := range strings.Lines(string(text)) {
				value, found := strings.CutPrefix(line, want)
				count, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if found && err == nil && int(count) >= services {
					since = time.Now()
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("the rules of the tenant did not reach cri-ext")
		}
	}
	return nil
}

// resident is a process's resident memory in MB.
func resident(command *exec.Cmd) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", command.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kilobytes, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kilobytes / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d tells no memory", command.Process.Pid)
}
