package certificates

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

func sample() Cluster {
	return Cluster{
		Tenant:      tenancy.Tenant{UID: "7a1c1c9e-6f3b-4c58-9d6f-0d7a3f1c2b4e", Namespace: "team", Name: "demo"},
		SuperDomain: "super.local", ClusterDomain: "cluster.local",
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		Hosts:       []string{"10.0.0.7", "demo.example.org"},
		InCluster:   "https://kube-apiserver.ns.svc:6443", External: "https://demo.example.org:6443",
		Scheduler: true, MetricsServer: true,
	}
}

// issued is all that a new cluster has.
func issued(t *testing.T, c Cluster) Secrets {
	t.Helper()
	have := Secrets{}
	store := func(secrets []*corev1.Secret, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			have[secret.Name] = secret
		}
	}
	store(Authorities(c, have, false))
	store(Leaves(c, have, time.Now()))
	return have
}

func names(secrets []*corev1.Secret) []string {
	var list []string
	for _, secret := range secrets {
		list = append(list, secret.Name)
	}
	slices.Sort(list)
	return list
}

// changedBy are the Secrets that have to be written after a change.
func changedBy(t *testing.T, have Secrets, c Cluster, now time.Time) []string {
	t.Helper()
	changed, err := Leaves(c, have, now)
	if err != nil {
		t.Fatal(err)
	}
	return names(changed)
}

func TestNothingIsIssuedTwice(t *testing.T) {
	c := sample()
	have := issued(t, c)
	for _, name := range SecretNames(c) {
		if have[name] == nil {
			t.Errorf("secret %s was not made", name)
		} else if err := tenancy.CheckOwned(have[name], c.Tenant, tenancy.ManagedByManager, name); err != nil {
			t.Error(err)
		}
	}
	if missing, err := Authorities(c, have, true); err != nil || len(missing) > 0 {
		t.Errorf("authorities %v would be made again (%v)", names(missing), err)
	}
	if changed := changedBy(t, have, c, time.Now()); len(changed) > 0 {
		t.Errorf("%v would be issued again", changed)
	}
}

func TestOnlyWhatAChangeConcernsIsIssuedAgain(t *testing.T) {
	all := SecretNames(sample())
	var leaves []string
	for _, name := range all {
		if !slices.Contains([]string{ClusterCA, FrontProxyCA, EtcdCA, KubeletClientCA, ServiceAccountKey}, name) {
			leaves = append(leaves, name)
		}
	}
	slices.Sort(leaves)
	for name, tc := range map[string]struct {
		change func(*Cluster, Secrets)
		after  time.Duration
		want   []string
	}{
		"another address":         {func(c *Cluster, _ Secrets) { c.Hosts = []string{"10.0.0.8"} }, 0, []string{APIServerServing}},
		"order of hosts":          {func(c *Cluster, _ Secrets) { slices.Reverse(c.Hosts) }, 0, nil},
		"another endpoint":        {func(c *Cluster, _ Secrets) { c.External = "https://10.0.0.8:6443" }, 0, []string{tenancy.AdminKubeconfigSecret}},
		"endpoint not known":      {func(c *Cluster, _ Secrets) { c.External = "" }, 0, nil},
		"a secret is gone":        {func(_ *Cluster, have Secrets) { delete(have, EtcdPeer) }, 0, []string{EtcdPeer}},
		"a secret is spoilt":      {func(_ *Cluster, have Secrets) { have[EtcdPeer].Data[corev1.TLSCertKey] = []byte("x") }, 0, []string{EtcdPeer}},
		"a kubeconfig is spoilt":  {spoilKubeconfig, 0, []string{tenancy.SyncerKubeconfigSecret}},
		"a key was added":         {func(_ *Cluster, have Secrets) { have[EtcdPeer].Data["x"] = nil }, 0, []string{EtcdPeer}},
		"seven months later":      {func(*Cluster, Secrets) {}, 7 * 30 * 24 * time.Hour, nil},
		"nine months later":       {func(*Cluster, Secrets) {}, 9 * 30 * 24 * time.Hour, leaves},
		"without metrics-server":  {func(c *Cluster, _ Secrets) { c.MetricsServer = false }, 0, nil},
		"another signs what etcd": {func(_ *Cluster, have Secrets) { have[EtcdServer].Data = have[APIServerServing].Data }, 0, []string{EtcdServer}},
	} {
		t.Run(name, func(t *testing.T) {
			c := sample()
			have := issued(t, c)
			tc.change(&c, have)
			if diff := cmp.Diff(tc.want, changedBy(t, have, c, time.Now().Add(tc.after))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// spoilKubeconfig makes a kubeconfig refer to a program to run.
func spoilKubeconfig(_ *Cluster, have Secrets) {
	data := have[tenancy.SyncerKubeconfigSecret].Data
	data[tenancy.KubeconfigKey] = []byte(strings.Replace(string(data[tenancy.KubeconfigKey]), "client-key-data", "tokenFile", 1))
}

func TestALostAuthorityIsNotReplaced(t *testing.T) {
	c := sample()
	for _, name := range []string{ClusterCA, FrontProxyCA, EtcdCA, KubeletClientCA, ServiceAccountKey} {
		have := issued(t, c)
		delete(have, name)
		if !InUse(c, have) {
			t.Fatal("a cluster with certificates is not in use")
		}
		var lost *AuthorityLostError
		if made, err := Authorities(c, have, true); !errors.As(err, &lost) || lost.Secret != name {
			t.Errorf("%s: made %v, error %v", name, names(made), err)
		}
		if _, err := Leaves(c, have, time.Now()); !errors.As(err, &lost) {
			t.Errorf("%s: issued without it: %v", name, err)
		}
		have = issued(t, c)
		have[name].Data = map[string][]byte{"tls.crt": []byte("x")}
		if _, err := Leaves(c, have, time.Now()); !errors.As(err, &lost) || lost.Cause == nil {
			t.Errorf("%s spoilt: %v", name, err)
		}
	}
}

func TestAnInterruptedStartGoesOn(t *testing.T) {
	c := sample()
	first, err := Authorities(c, Secrets{}, false)
	if err != nil {
		t.Fatal(err)
	}
	have := Secrets{first[0].Name: first[0], first[1].Name: first[1]}
	if InUse(c, have) {
		t.Fatal("nothing was issued, yet the cluster is in use")
	}
	rest, err := Authorities(c, have, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(rest) != len(first)-2 || slices.Contains(names(rest), first[0].Name) {
		t.Errorf("made %v when %s and %s were there", names(rest), first[0].Name, first[1].Name)
	}
}

// Each certificate verifies by its own authority and by no other: nothing that a
// tenant's cluster signs can open etcd or vn-agent, or speak for others as front proxy.
func TestAuthoritiesAreApart(t *testing.T) {
	c := sample()
	have := issued(t, c)
	for _, row := range leaves(c) {
		cert, err := pki.ParseCertificate(row.storedPair(have[row.secret].Data).Cert)
		if err != nil {
			t.Fatal(err)
		}
		for _, authority := range []string{ClusterCA, FrontProxyCA, EtcdCA, KubeletClientCA} {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(have[authority].Data[corev1.TLSCertKey])
			_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if want := authority == row.authority; want != (err == nil) {
				t.Errorf("%s verified by %s: %v, want %v", row.secret, authority, err == nil, want)
			}
		}
		if len(cert.Subject.CommonName) > 64 || len(cert.Issuer.CommonName) > 64 {
			t.Errorf("%s: names %q and %q are longer than X.520 allows", row.secret, cert.Subject.CommonName, cert.Issuer.CommonName)
		}
	}
}

func TestServingCertificateIsValidForAllWaysToReachIt(t *testing.T) {
	c := sample()
	have := issued(t, c)
	cert, err := pki.ParseCertificate(have[APIServerServing].Data[corev1.TLSCertKey])
	if err != nil {
		t.Fatal(err)
	}
	namespace := c.Tenant.ControlPlaneNamespace()
	for _, host := range []string{
		"kube-apiserver", "kube-apiserver." + namespace, "kube-apiserver." + namespace + ".svc", "kube-apiserver." + namespace + ".svc.super.local",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"10.96.0.1", "127.0.0.1", "localhost", "10.0.0.7", "demo.example.org",
	} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := cert.VerifyHostname("other.example.org"); err == nil {
		t.Error("valid for a host nobody named")
	}
}

func TestKubeconfigs(t *testing.T) {
	c := sample()
	have := issued(t, c)
	for secret, want := range map[string]struct {
		server, user string
		groups       []string
	}{
		tenancy.AdminKubeconfigSecret:       {c.External, "kubernetes-admin", []string{GroupAdmins}},
		tenancy.SyncerKubeconfigSecret:      {c.InCluster, "bulkhead:syncer", nil},
		tenancy.VNAgentKubeconfigSecret:     {c.InCluster, "bulkhead:vn-agent", nil},
		tenancy.TenantProxyKubeconfigSecret: {c.InCluster, "bulkhead:tenant-proxy", nil},
		ManagerKubeconfig:                   {c.InCluster, "bulkhead:vc-manager", []string{"system:masters"}},
		ControllerManagerKubeconfig:         {c.InCluster, "system:kube-controller-manager", nil},
		SchedulerKubeconfig:                 {c.InCluster, "system:kube-scheduler", nil},
		MetricsServerKubeconfig:             {c.InCluster, "bulkhead:metrics-server", nil},
	} {
		config, err := kubeconfig.RESTConfig(have[secret].Data[tenancy.KubeconfigKey])
		if err != nil {
			t.Fatalf("%s: %v", secret, err)
		}
		cert, err := pki.ParseCertificate(config.CertData)
		if err != nil {
			t.Fatal(err)
		}
		if config.Host != want.server || cert.Subject.CommonName != want.user || !slices.Equal(cert.Subject.Organization, want.groups) {
			t.Errorf("%s: %s as %s of %v", secret, config.Host, cert.Subject.CommonName, cert.Subject.Organization)
		}
	}
	if bundle := have[tenancy.VNAgentKubeconfigSecret].Data[tenancy.KubeletClientCAKey]; string(bundle) != string(have[KubeletClientCA].Data[corev1.TLSCertKey]) {
		t.Error("vn-agent is not told the kubelet client CA")
	}
	if ranges := have[tenancy.TenantProxyKubeconfigSecret].Data[tenancy.ServiceCIDRKey]; string(ranges) != c.ServiceCIDR.String() {
		t.Errorf("tenant-proxy is told the service range %q, not %s", ranges, c.ServiceCIDR)
	}
	c.External = ""
	if changed := changedBy(t, subset(have, ClusterCA, FrontProxyCA, EtcdCA, KubeletClientCA, ServiceAccountKey), c, time.Now()); slices.Contains(changed, tenancy.AdminKubeconfigSecret) {
		t.Error("a kubeconfig was written before its server was known")
	}
}

func subset(have Secrets, names ...string) Secrets {
	part := Secrets{}
	for _, name := range names {
		part[name] = have[name]
	}
	return part
}

// Pods are replaced for what they read only once, and for nothing else.
func TestStartupFiles(t *testing.T) {
	c := sample()
	have := issued(t, c)
	before := StartupFiles(have, []byte("node CA"), "demo.example.org")
	renewed, err := Leaves(c, have, time.Now().Add(300*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range renewed {
		have[secret.Name] = secret
	}
	after := StartupFiles(have, []byte("node CA"), "demo.example.org")
	for component, want := range map[string]bool{
		"etcd": false, "kube-apiserver": false, "kube-controller-manager": true, "kube-scheduler": true, "metrics-server": true,
	} {
		if changed := before[component] != after[component]; changed != want {
			t.Errorf("%s is restarted by a renewal: %v, want %v", component, changed, want)
		}
	}
	for component, want := range map[string]bool{"etcd": false, "kube-apiserver": true, "metrics-server": true} {
		if changed := after[component] != StartupFiles(have, []byte("other"), "demo.example.org")[component]; changed != want {
			t.Errorf("%s is restarted by a new node CA: %v, want %v", component, changed, want)
		}
		moved := component == "kube-apiserver"
		if changed := after[component] != StartupFiles(have, []byte("node CA"), "new.example.org")[component]; changed != moved {
			t.Errorf("%s is restarted by a new endpoint: %v, want %v", component, changed, moved)
		}
	}
}
