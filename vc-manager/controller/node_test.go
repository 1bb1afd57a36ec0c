package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// node stands in for kubelet and kube-proxy of the super cluster under test: it runs
// the pods of control planes as processes on loopback, with the very commands,
// files and probes that are in the pods, and tells the super cluster which are ready.
// What it runs is real: etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
type node struct {
	super     client.Client
	hyperkube string
	dir       string

	mu    sync.Mutex
	pods  map[types.UID]*runningPod
	ports map[string]*testenv.Port // pod and port -> loopback port
	// services are the loopback addresses of kube-apiservers' Services, by namespace.
	services map[string]string
	only     map[string]bool // namespaces whose pods run here
	// paused are those of them where nothing is started.
	paused map[string]bool
}

type runningPod struct {
	namespace, name, component string
	process                    *exec.Cmd
	exited                     chan struct{}
	ready                      bool
	probe                      func(context.Context) error
}

func newNode(super client.Client, dir string) (*node, error) {
	hyperkube, err := testenv.Program("hyperkube")
	if err != nil {
		return nil, err
	}
	return &node{super: super, hyperkube: hyperkube, dir: dir, pods: map[types.UID]*runningPod{}, ports: map[string]*testenv.Port{}, services: map[string]string{}, only: map[string]bool{}, paused: map[string]bool{}}, nil
}

// serve lets the pods of a namespace run.
func (n *node) serve(namespace string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.only[namespace] = true
	delete(n.paused, namespace)
}

// run does a kubelet's work until ctx ends.
func (n *node) run(ctx context.Context) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, pod := range n.pods {
				pod.kill()
			}
			return
		case <-ticker.C:
			if err := n.sync(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "node:", err)
			}
		}
	}
}

func (n *node) sync(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := map[types.UID]bool{}
	for namespace := range n.only {
		var pods corev1.PodList
		if err := n.super.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return err
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.DeletionTimestamp != nil {
				continue
			}
			wanted[pod.UID] = true
			running := n.pods[pod.UID]
			if (running == nil || running.ended()) && n.paused[namespace] {
				continue
			}
			if running == nil || running.ended() {
				started, err := n.start(ctx, pod)
				if err != nil {
					return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
				}
				n.pods[pod.UID] = started
				running = started
			}
			if err := n.report(ctx, pod, running); err != nil {
				return err
			}
		}
	}
	for uid, pod := range n.pods {
		if !wanted[uid] {
			pod.kill()
			delete(n.pods, uid)
		}
	}
	return nil
}

// start runs the pod's only container.
func (n *node) start(ctx context.Context, pod *corev1.Pod) (*runningPod, error) {
	dir := filepath.Join(n.dir, pod.Namespace, pod.Name)
	files := filepath.Join(dir, "files")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, err
	}
	environment, err := n.mount(ctx, pod, files)
	if err != nil {
		return nil, err
	}
	container := pod.Spec.Containers[0]
	rewrite := n.rewriter(pod, dir, files)
	var command []string
	for _, word := range container.Command {
		command = append(command, rewrite(word))
	}
	if command[0] != "etcd" {
		command = append(command, "--bind-address=127.0.0.1")
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	process := exec.Command(n.hyperkube, command...)
	process.Env = append(os.Environ(), environment...)
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := process.Start(); err != nil {
		return nil, err
	}
	running := &runningPod{
		namespace: pod.Namespace, name: pod.Name, component: container.Name, process: process,
		exited: make(chan struct{}), probe: n.prober(pod, container.ReadinessProbe, rewrite),
	}
	go func() {
		_ = process.Wait() // how it ended stands in its log
		close(running.exited)
	}()
	return running, nil
}

// mount writes the files of the pod's projected volume and resolves its environment.
func (n *node) mount(ctx context.Context, pod *corev1.Pod, files string) (environment []string, err error) {
	if err := os.MkdirAll(files, 0o700); err != nil {
		return nil, err
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.Secret != nil {
				secret := &corev1.Secret{}
				if err := n.super.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: source.Secret.Name}, secret); err != nil {
					return nil, err
				}
				for _, item := range source.Secret.Items {
					if err := n.writeFile(pod, filepath.Join(files, item.Path), secret.Data[item.Key]); err != nil {
						return nil, err
					}
				}
			}
			if source.ConfigMap != nil {
				configMap := &corev1.ConfigMap{}
				if err := n.super.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: source.ConfigMap.Name}, configMap); err != nil {
					return nil, err
				}
				for _, item := range source.ConfigMap.Items {
					if err := n.writeFile(pod, filepath.Join(files, item.Path), []byte(configMap.Data[item.Key])); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	for _, env := range pod.Spec.Containers[0].Env {
		if env.ValueFrom == nil || env.ValueFrom.ConfigMapKeyRef == nil {
			continue
		}
		configMap := &corev1.ConfigMap{}
		if err := n.super.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: env.ValueFrom.ConfigMapKeyRef.Name}, configMap); err != nil {
			return nil, err
		}
		environment = append(environment, env.Name+"="+configMap.Data[env.ValueFrom.ConfigMapKeyRef.Key])
	}
	return environment, nil
}

// writeFile leads the kubeconfigs in it to loopback.
func (n *node) writeFile(pod *corev1.Pod, path string, data []byte) error {
	inCluster := fmt.Sprintf("kube-apiserver.%s.svc:6443", pod.Namespace)
	data = bytes.ReplaceAll(data, []byte(inCluster), []byte(n.service(pod.Namespace)))
	if present, err := os.ReadFile(path); err == nil && bytes.Equal(present, data) {
		return nil
	}
	return os.WriteFile(path, data, 0o600)
}

// rewriter turns what holds inside of a pod into what holds on loopback.
func (n *node) rewriter(pod *corev1.Pod, dir, files string) func(string) string {
	secure := func(port int) (from, to string) {
		return fmt.Sprintf("--secure-port=%d", port), fmt.Sprintf("--secure-port=%d", n.port(pod.Namespace, pod.Name, port))
	}
	apiServer, apiServerTo := secure(6443)
	controllerManager, controllerManagerTo := secure(10257)
	scheduler, schedulerTo := secure(10259)
	etcd := n.loopback(pod.Namespace, "etcd-0", 2379)
	return strings.NewReplacer(
		"/etc/kubernetes/control-plane", files, "/var/lib/etcd", filepath.Join(dir, "data"),
		"$(POD_NAME)", pod.Name, "$(POD_IP)", "192.0.2.1",
		"0.0.0.0:2379", etcd, "127.0.0.1:2379", etcd, fmt.Sprintf("etcd-client.%s.svc:2379", pod.Namespace), etcd,
		"0.0.0.0:2380", n.loopback(pod.Namespace, "etcd-0", 2380),
		apiServer, apiServerTo, controllerManager, controllerManagerTo, scheduler, schedulerTo,
	).Replace
}

func (n *node) port(namespace, pod string, port int) int {
	key := fmt.Sprintf("%s/%s:%d", namespace, pod, port)
	if n.ports[key] == nil {
		port, err := testenv.ReservePort()
		if err != nil {
			panic(err)
		}
		n.ports[key] = port
	}
	return n.ports[key].Number
}

func (n *node) loopback(namespace, pod string, port int) string {
	return "127.0.0.1:" + strconv.Itoa(n.port(namespace, pod, port))
}

// service is the loopback address of a namespace's kube-apiserver, whichever pod
// that is.
func (n *node) service(namespace string) string {
	if n.services[namespace] == "" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		n.services[namespace] = listener.Addr().String()
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				go n.forward(namespace, connection)
			}
		}()
	}
	return n.services[namespace]
}

// forward does what kube-proxy does: it leads to a pod that is ready, or refuses.
func (n *node) forward(namespace string, connection net.Conn) {
	defer connection.Close()
	pod, err := n.dialReady(context.Background(), namespace)
	if err != nil {
		return
	}
	defer pod.Close()
	go func() {
		_, _ = io.Copy(pod, connection)
		pod.Close()
	}()
	_, _ = io.Copy(connection, pod)
}

func (n *node) dialReady(ctx context.Context, namespace string) (net.Conn, error) {
	n.mu.Lock()
	address := ""
	for _, pod := range n.pods {
		if pod.namespace == namespace && pod.component == controlplane.APIServer && pod.ready && !pod.ended() {
			address = n.loopback(namespace, pod.name, 6443)
		}
	}
	n.mu.Unlock()
	if address == "" {
		return nil, fmt.Errorf("no pod of kube-apiserver in %s is ready", namespace)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// prober does a readiness probe as a kubelet would: without a client certificate.
func (n *node) prober(pod *corev1.Pod, probe *corev1.Probe, rewrite func(string) string) func(context.Context) error {
	if probe.Exec != nil {
		return func(ctx context.Context) error {
			var command []string
			for _, word := range probe.Exec.Command {
				command = append(command, rewrite(word))
			}
			out, err := exec.CommandContext(ctx, n.hyperkube, command...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
	}
	url := "https://" + n.loopback(pod.Namespace, pod.Name, probe.HTTPGet.Port.IntValue()) + probe.HTTPGet.Path
	kubelet := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // as kubelets do
	}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := kubelet.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

// report probes the pod and writes its status.
func (n *node) report(ctx context.Context, pod *corev1.Pod, running *runningPod) error {
	probing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ready := corev1.ConditionFalse
	// What was ready and still runs is, to save time; tests that break it kill it.
	if running.ready && !running.ended() || running.probe(probing) == nil {
		ready, running.ready = corev1.ConditionTrue, true
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == ready {
			return nil
		}
	}
	before := pod.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP, pod.Status.PodIPs = "192.0.2.1", []corev1.PodIP{{IP: "192.0.2.1"}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}, {Type: corev1.ContainersReady, Status: ready}}
	err := n.super.Status().Patch(ctx, pod, client.MergeFrom(before))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// kill ends the process of a component's pod as kill -9 does; it is started again.
func (n *node) kill(t *testing.T, namespace, component string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, pod := range n.pods {
		if pod.namespace == namespace && pod.component == component {
			pod.kill()
			return
		}
	}
	t.Fatalf("no pod of %s runs in %s", component, namespace)
}

// pause keeps the pods of a namespace from being started again, until serve.
func (n *node) pause(namespace string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paused[namespace] = true
}

// toService leads every connection to the pod behind a Service.
func (n *node) toService(service *corev1.Service) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.DialContext(ctx, network, net.JoinHostPort(service.Spec.ClusterIP, "6443"))
	}
}

// log is what a component's pods wrote.
func (n *node) log(namespace, component string) string {
	paths, _ := filepath.Glob(filepath.Join(n.dir, namespace, component+"*", "log"))
	var text strings.Builder
	for _, path := range paths {
		data, _ := os.ReadFile(path)
		if len(data) > 4000 {
			data = data[len(data)-4000:]
		}
		fmt.Fprintf(&text, "--- %s\n%s\n", filepath.Base(filepath.Dir(path)), data)
	}
	return text.String()
}

// DialContext is kube-proxy: it leads a Service's address to the pod behind it.
func (n *node) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var services corev1.ServiceList
	if err := n.super.List(ctx, &services, client.MatchingLabels{controlplane.LabelComponent: controlplane.APIServer}); err != nil {
		return nil, err
	}
	for _, service := range services.Items {
		if service.Spec.ClusterIP == host {
			return n.dialReady(ctx, service.Namespace)
		}
	}
	return nil, fmt.Errorf("no service has the address %s", host)
}

func (p *runningPod) kill() {
	_ = p.process.Process.Kill()
	<-p.exited
}

func (p *runningPod) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}
