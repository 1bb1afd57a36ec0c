package kubeconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

func sample() Config {
	return Config{
		Name: "demo", Server: "https://10.0.0.1:6443", CA: []byte("ca"), TLSServerName: "kubernetes",
		User: "admin", Client: pki.Pair{Cert: []byte("cert"), Key: []byte("key")}, Namespace: "default",
	}
}

func TestEncodeAndRead(t *testing.T) {
	data, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := RESTConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if got.Host != "https://10.0.0.1:6443" || got.Insecure {
		t.Errorf("host %q, insecure %v", got.Host, got.Insecure)
	}
	want := map[string]string{"CA": "ca", "cert": "cert", "key": "key", "name": "kubernetes"}
	have := map[string]string{"CA": string(got.CAData), "cert": string(got.CertData), "key": string(got.KeyData), "name": got.ServerName}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
}

func TestRefusesWhatIsNotOnlyData(t *testing.T) {
	for name, change := range map[string]func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo){
		"verify": func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
			c.InsecureSkipTLSVerify, c.CertificateAuthorityData = true, nil
		},
		"proxy": func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.ProxyURL = "http://proxy" },
		"files": func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) { u.TokenFile = "/etc/shadow" },
		"program": func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			u.Exec = &clientcmdapi.ExecConfig{Command: "sh", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
		},
	} {
		data, err := Encode(sample())
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.Load(data)
		if err != nil {
			t.Fatal(err)
		}
		change(config.Clusters["demo"], config.AuthInfos["admin"])
		if data, err = clientcmd.Write(*config); err != nil {
			t.Fatal(err)
		}
		if _, err := RESTConfig(data); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzRESTConfig(f *testing.F) {
	data, err := Encode(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("kind: Config\ncurrent-context: x\ncontexts: [{name: x}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := RESTConfig(data)
		if err == nil && (config.Insecure || config.ExecProvider != nil || config.BearerTokenFile != "" || config.CertFile != "") {
			t.Fatalf("unsafe configuration accepted: %+v", config)
		}
	})
}
