package testenv

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// process is a running program whose output goes to a log file.
type process struct {
	command *exec.Cmd
	log     string
	once    sync.Once
	done    chan struct{}
}

func (c *Cluster) run(name string, args []string) error {
	log := c.path(name + ".log")
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer output.Close()
	command := exec.Command(c.hyperkube, append([]string{name}, args...)...)
	command.Stdout, command.Stderr = output, output
	// A test that is killed takes its processes along.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{command: command, log: log, done: make(chan struct{})}
	go func() {
		_ = command.Wait() // how it ended shows in its log
		close(p.done)
	}()
	c.processes[name] = p
	return nil
}

func (p *process) stop() {
	p.once.Do(func() { _ = p.command.Process.Kill() })
	<-p.done
}

// waitReady returns when the apiserver serves reads and, with a controller-manager,
// the default namespace has its ServiceAccount.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		for name, p := range c.processes {
			select {
			case <-p.done:
				return false, fmt.Errorf("%s ended; its log %s says:\n%s", name, p.log, lastLines(p.log, 15))
			default:
			}
		}
		key := client.ObjectKey{Namespace: "default", Name: "default"}
		if c.processes["kube-controller-manager"] != nil {
			last = c.Client.Get(ctx, key, &corev1.ServiceAccount{})
		} else if last = c.Client.Get(ctx, client.ObjectKey{Name: "default"}, &corev1.Namespace{}); last == nil {
			if last = c.ready(ctx); last == nil {
				last = c.allocates(ctx)
			}
		}
		return last == nil, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("waiting for the test cluster in %s: %w (last answer: %w)", c.Dir, err, last)
	}
	return err
}

// allocates tries whether a Service would get an address: an apiserver learns of its
// ranges some time after it says that it is ready.
func (c *Cluster) allocates(ctx context.Context) error {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "testenv"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	return c.Client.Create(ctx, service, client.DryRunAll)
}

// ready asks for all that a controller-manager wants of it when it starts, and more.
func (c *Cluster) ready(ctx context.Context) error {
	httpClient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Config.Host+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the apiserver is not ready: %s", response.Status)
	}
	return nil
}

func lastLines(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}

func (c *Cluster) etcdArgs() []string {
	client, peer := "https://127.0.0.1:"+strconv.Itoa(c.urls.etcd), "https://127.0.0.1:"+strconv.Itoa(c.urls.etcdPeer)
	return []string{
		"--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + c.path("ca.crt"), "--cert-file=" + c.path("server.crt"), "--key-file=" + c.path("server.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + c.path("ca.crt"), "--peer-cert-file=" + c.path("server.crt"), "--peer-key-file=" + c.path("server.key"),
	}
}

func (c *Cluster) apiserverArgs(serviceCIDR string) []string {
	return []string{
		"--etcd-servers=https://127.0.0.1:" + strconv.Itoa(c.urls.etcd),
		"--etcd-cafile=" + c.path("ca.crt"), "--etcd-certfile=" + c.path("server.crt"), "--etcd-keyfile=" + c.path("server.key"),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(c.urls.apiserver),
		// On loopback the endpoint reconciler refuses the advertised address; nothing here needs it.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.path("server.crt"), "--tls-private-key-file=" + c.path("server.key"),
		"--client-ca-file=" + c.path("ca.crt"), "--authorization-mode=Node,RBAC", "--allow-privileged",
		"--service-cluster-ip-range=" + serviceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc", "--api-audiences=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("sa.pub"), "--service-account-signing-key-file=" + c.path("sa.key"),
	}
}

func (c *Cluster) controllerManagerArgs() []string {
	return []string{
		"--kubeconfig=" + c.path("admin.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
		"--service-account-private-key-file=" + c.path("sa.key"), "--root-ca-file=" + c.path("ca.crt"),
		"--use-service-account-credentials", "--kube-api-qps=1000", "--kube-api-burst=2000",
		"--cluster-signing-cert-file=" + c.path("ca.crt"), "--cluster-signing-key-file=" + c.path("ca.key"),
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller",
	}
}

// writeCertificates gives the cluster one CA for everything: what is tested is
// never the test cluster's own separation of trust.
func (c *Cluster) writeCertificates() error {
	ca, err := pki.NewCA("testenv-ca")
	if err != nil {
		return err
	}
	server, err := ca.Issue(pki.Leaf{CommonName: "testenv", Hosts: []string{"127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"}, Usage: pki.Peer})
	if err != nil {
		return err
	}
	serviceAccounts, err := pki.NewServiceAccountKey()
	if err != nil {
		return err
	}
	c.CA = ca
	for name, data := range map[string][]byte{
		"ca.crt": ca.Cert, "ca.key": ca.Key, "server.crt": server.Cert, "server.key": server.Key,
		"sa.pub": serviceAccounts.Cert, "sa.key": serviceAccounts.Key,
	} {
		if err := os.WriteFile(c.path(name), data, 0o600); err != nil {
			return fmt.Errorf("writing the test cluster's certificates: %w", err)
		}
	}
	return nil
}
