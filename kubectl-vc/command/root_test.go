package command

import (
	"bytes"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

func TestCompletion(t *testing.T) {
	u := newUser(t)
	u.create(t, "demo")
	u.create(t, "dev")
	u.create(t, "prod")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"verbs":       {[]string{"kub"}, []string{"kubeconfig"}},
		"names":       {[]string{"describe", "de"}, []string{"demo", "dev"}},
		"one name":    {[]string{"delete", "demo", ""}, nil},
		"formats":     {[]string{"list", "-o", "ya"}, []string{"yaml"}},
		"contexts":    {[]string{"list", "--context", "test"}, []string{"testenv"}},
		"namespaces":  {[]string{"list", "--namespace", u.namespace[:len(u.namespace)-1]}, []string{u.namespace}},
		"no new name": {[]string{"create", "de"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			// Flags go first: the last word is the one to complete.
			args := append([]string{"__complete", tc.args[0], "--kubeconfig", u.kubeconfig, "-n", u.namespace}, tc.args[1:]...)
			if len(tc.args) == 1 {
				args = []string{"__complete", tc.args[0]}
			}
			var got []string
			for _, line := range strings.Split(complete(t, args...), "\n") {
				if word, _, _ := strings.Cut(line, "\t"); word != "" && !strings.HasPrefix(word, ":") && strings.HasPrefix(word, tc.args[len(tc.args)-1]) {
					got = append(got, word)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompletionWithoutACluster(t *testing.T) {
	if out := complete(t, "__complete", "describe", "--kubeconfig", filepath.Join(t.TempDir(), "none"), ""); !strings.HasPrefix(out, ":1\n") {
		t.Errorf("got %q", out)
	}
}

// kubectl completes `kubectl vc` through a program called kubectl_complete-vc.
func TestArguments(t *testing.T) {
	for _, tc := range []struct{ args, want []string }{
		{[]string{"/usr/bin/kubectl-vc", "list"}, []string{"list"}},
		{[]string{"/usr/bin/kubectl_complete-vc", "describe", ""}, []string{"__complete", "describe", ""}},
		{nil, nil},
	} {
		if diff := cmp.Diff(tc.want, Arguments(tc.args)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestClusterWithoutBulkhead(t *testing.T) {
	cluster := testenv.New(t, testenv.Options{})
	u := user{kubeconfig: writeKubeconfig(t, cluster.Kubeconfig), namespace: "default"}
	for _, args := range [][]string{{"list"}, {"create", "demo"}, {"describe", "demo"}, {"kubeconfig", "demo"}, {"delete", "demo"}} {
		mustFail(t, u.run(t.Context(), args...), "Bulkhead is not installed in this cluster", cluster.Config.Host, "helm install")
	}
}

func TestNoCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	mustFail(t, run(t, "list"), "no super cluster is chosen", "KUBECONFIG")

	file := writeKubeconfig(t, []byte(strings.Replace(string(shared.Kubeconfig), shared.Config.Host, "https://127.0.0.1:1", 1)))
	mustFail(t, user{kubeconfig: file, namespace: "default"}.run(t.Context(), "list"), "https://127.0.0.1:1 does not answer")
}

// A server that is not the one the kubeconfig was made for.
func TestForeignCluster(t *testing.T) {
	ca, err := pki.NewCA("another")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.Load(shared.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range config.Clusters {
		info.CertificateAuthorityData = ca.Cert
	}
	content, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	u := user{kubeconfig: writeKubeconfig(t, content), namespace: "default"}
	mustFail(t, u.run(t.Context(), "list"), "not the one your kubeconfig knows", "cannot be verified")
}

// Somebody whom the super cluster does not know.
func TestUnknownUser(t *testing.T) {
	config, err := clientcmd.Load(shared.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range config.AuthInfos {
		*info = clientcmdapi.AuthInfo{Token: "nobody"}
	}
	content, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	u := user{kubeconfig: writeKubeconfig(t, content), namespace: "default"}
	mustFail(t, u.run(t.Context(), "list"), "does not know you")
}

func TestVersion(t *testing.T) {
	if r := run(t, "version"); r.err != nil || !strings.HasPrefix(r.out, "kubectl-vc ") {
		t.Errorf("%s", r)
	}
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}
	if got := versionOf(info); got != "v1.2.3 abc" {
		t.Errorf("got %q", got)
	}
	if got := versionOf(&debug.BuildInfo{}); got != "(devel)" {
		t.Errorf("got %q", got)
	}
}

func TestHelpListsEveryVerb(t *testing.T) {
	r := run(t, "--help")
	if r.err != nil {
		t.Fatal(r.err)
	}
	_, commands, _ := strings.Cut(r.out, "Available Commands:")
	commands, _, _ = strings.Cut(commands, "\nFlags:")
	golden(t, "testdata/help.out", strings.TrimLeft(commands, "\n"))
}

// run runs the program without any flags but args.
func run(t *testing.T, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	root := New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return result{out: out.String(), errOut: errOut.String(), err: err}
}

func complete(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.out
}
