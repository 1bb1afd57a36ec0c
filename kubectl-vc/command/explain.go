package command

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

var errNoCluster = errors.New("no super cluster is chosen: set KUBECONFIG, or give --kubeconfig, to the kubeconfig of the super cluster")

// NotInstalledError says that a cluster lacks Bulkhead's kinds.
type NotInstalledError struct {
	// Server is the URL of the cluster's apiserver.
	Server string
}

func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("Bulkhead is not installed in this cluster: %s has no %s; install it with "+
		"`helm install bulkhead charts/bulkhead -n bulkhead-system --create-namespace --wait`, "+
		"or choose another cluster with --context or --kubeconfig", e.Server, tenancyv1alpha1.GroupVersion)
}

// explain turns an error of the super cluster into one that says what to do. server
// is its URL, or "".
func explain(err error, server string) error {
	var network net.Error
	var unverified *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case clientcmd.IsEmptyConfig(err):
		return errNoCluster
	case missingCRD(err):
		return &NotInstalledError{Server: server}
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the super cluster %s does not know you: log in again, or choose another user with --context", server)
	case apierrors.IsForbidden(err):
		return forbidden(err)
	case apierrors.IsInvalid(err):
		return invalid(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &unverified):
		return fmt.Errorf("the super cluster %s is not the one your kubeconfig knows: its certificate cannot be verified: %w", server, unverified.Err)
	case utilnet.IsConnectionRefused(err), errors.As(err, &network):
		return fmt.Errorf("the super cluster %s does not answer: %w", server, err)
	}
	return err
}

// missingCRD tells whether the cluster lacks our kinds.
func missingCRD(err error) bool {
	if meta.IsNoMatchError(err) || discovery.IsGroupDiscoveryFailedError(err) {
		return true
	}
	// A CRD that went away after the kinds were looked up.
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name == "" &&
		strings.HasSuffix(status.Status().Details.Kind, tenancyv1alpha1.GroupVersion.Group)
}

// forbidden names the right that is missing.
func forbidden(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err
	}
	details := status.Status().Details
	resource := details.Kind
	if details.Group != "" {
		resource += "." + details.Group
	}
	_, reason, _ := strings.Cut(status.Status().Message, "is forbidden: ")
	if !strings.Contains(reason, "cannot ") {
		// Refused by an admission plugin or policy, whose own words are the answer.
		return fmt.Errorf("the super cluster refuses it: %s", status.Status().Message)
	}
	return fmt.Errorf("you lack a right to %s: %s; ask an administrator of the super cluster for it", resource, reason)
}

// invalid lists what is wrong, field by field.
func invalid(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return err
	}
	details := status.Status().Details
	problems := make([]string, 0, len(details.Causes))
	for _, cause := range details.Causes {
		problems = append(problems, strings.TrimPrefix(cause.Field+": ", ": ")+cause.Message)
	}
	return fmt.Errorf("%s is not valid: %s", details.Name, strings.Join(problems, "; "))
}

// explainFor is explain for an action on one virtual cluster.
func (s *super) explainFor(err error, name string) error {
	var status apierrors.APIStatus
	switch {
	case missingCRD(err), err == nil:
	case apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces":
		return fmt.Errorf("namespace %s does not exist: make it with `kubectl create namespace %[1]s`, or choose another with -n", s.namespace)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("virtual cluster %q not found in namespace %s: `kubectl vc list -A` shows all, -n chooses the namespace", name, s.namespace)
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("virtual cluster %q exists already in namespace %s: `kubectl vc describe %[1]s -n %[2]s` shows it", name, s.namespace)
	}
	return explain(err, s.server)
}

// get reads a virtual cluster; its error says what to do.
func (s *super) get(ctx context.Context, name string) (*tenancyv1alpha1.VirtualCluster, error) {
	vc := &tenancyv1alpha1.VirtualCluster{}
	if err := s.Get(ctx, s.key(name), vc); err != nil {
		return nil, s.explainFor(err, name)
	}
	return vc, nil
}

// reference is how kubectl names a virtual cluster in what it prints.
func reference(vc metav1.Object) string {
	return "virtualcluster." + tenancyv1alpha1.GroupVersion.Group + "/" + vc.GetName()
}

// namespaceOr writes -n for hints, unless it is kubectl's default.
func namespaceFlag(namespace string) string {
	if namespace == corev1.NamespaceDefault {
		return ""
	}
	return " -n " + namespace
}
