// Package userconfig puts the kubeconfig of a virtual cluster into a user's own
// kubeconfig file, next to what is there.
package userconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
)

// extension is the key under which kubeconfig entries of ours say what they are.
const extension = "tenancy.bulkhead.dev/virtual-cluster"

// Identity says which virtual cluster a kubeconfig entry belongs to. An entry is
// only ever replaced by one of the same identity: a virtual cluster that was made
// anew under its old name takes its old entry's place.
type Identity struct {
	// SuperCluster is the URL of the super cluster's apiserver.
	SuperCluster string `json:"superCluster"`
	// VirtualCluster is namespace/name.
	VirtualCluster string `json:"virtualCluster"`
}

// ForeignError says that the file has an entry of that name which is not ours.
type ForeignError struct {
	// File is the kubeconfig file.
	File string
	// Kind is "context", "cluster" or "user".
	Kind string
	// Name of the entry.
	Name string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s has a %s %q already that is not this virtual cluster's: it stays as it is; choose another name with --name", e.File, e.Kind, e.Name)
}

// Merge adds a context with its cluster and user, all called name, to the kubeconfig
// file, or replaces the ones that an earlier Merge of the same identity made.
// content is the virtual cluster's kubeconfig; only its current context is taken. The
// current context of the file stays what it was, unless it had none. Everything is
// written at once or not at all.
func Merge(ctx context.Context, file, name string, identity Identity, content []byte) error {
	// Refuses what carries commands, file names or unverified servers.
	if _, err := kubeconfig.RESTConfig(content); err != nil {
		return fmt.Errorf("the kubeconfig of virtual cluster %s cannot be merged: %w", identity.VirtualCluster, err)
	}
	from, err := clientcmd.Load(content)
	if err != nil {
		return fmt.Errorf("parsing the kubeconfig of virtual cluster %s: %w", identity.VirtualCluster, err)
	}
	return change(ctx, file, func(old []byte) ([]byte, error) { return merged(old, from, file, name, identity) })
}

// merged is what becomes of the content of a kubeconfig file.
func merged(old []byte, from *clientcmdapi.Config, file, name string, identity Identity) ([]byte, error) {
	into, err := parse(old)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", file, err)
	}
	if err := add(into, from, file, name, identity); err != nil {
		return nil, err
	}
	data, err := clientcmd.Write(*into)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", file, err)
	}
	return data, nil
}

// parse reads a kubeconfig; one that is empty or is not there is an empty one.
func parse(data []byte) (*clientcmdapi.Config, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return clientcmdapi.NewConfig(), nil
	}
	return clientcmd.Load(data)
}

func add(into, from *clientcmdapi.Config, file, name string, identity Identity) error {
	if err := checkOurs(into, file, name, identity); err != nil {
		return err
	}
	mark, err := json.Marshal(identity)
	if err != nil {
		return fmt.Errorf("encoding the mark of virtual cluster %s: %w", identity.VirtualCluster, err)
	}
	extensions := func() map[string]runtime.Object {
		return map[string]runtime.Object{extension: &runtime.Unknown{Raw: mark, ContentType: runtime.ContentTypeJSON}}
	}
	current := from.Contexts[from.CurrentContext]
	cluster, user := from.Clusters[current.Cluster].DeepCopy(), from.AuthInfos[current.AuthInfo].DeepCopy()
	cluster.Extensions, user.Extensions = extensions(), extensions()
	into.Clusters[name], into.AuthInfos[name] = cluster, user
	into.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: current.Namespace, Extensions: extensions()}
	if into.CurrentContext == "" {
		into.CurrentContext = name
	}
	return nil
}

// checkOurs returns a *ForeignError if an entry of that name has not our mark.
func checkOurs(config *clientcmdapi.Config, file, name string, identity Identity) error {
	if entry := config.Contexts[name]; entry != nil && !ours(entry.Extensions, identity) {
		return &ForeignError{File: file, Kind: "context", Name: name}
	}
	if cluster := config.Clusters[name]; cluster != nil && !ours(cluster.Extensions, identity) {
		return &ForeignError{File: file, Kind: "cluster", Name: name}
	}
	if user := config.AuthInfos[name]; user != nil && !ours(user.Extensions, identity) {
		return &ForeignError{File: file, Kind: "user", Name: name}
	}
	return nil
}

func ours(extensions map[string]runtime.Object, identity Identity) bool {
	mark, ok := extensions[extension].(*runtime.Unknown)
	if !ok {
		return false
	}
	var found Identity
	return json.Unmarshal(mark.Raw, &found) == nil && found == identity
}
