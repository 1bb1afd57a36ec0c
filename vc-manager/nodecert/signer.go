package nodecert

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
)

// Reasons in the conditions of requests.
const (
	reasonApproved = "NodeServing"
	reasonDenied   = "NotForThisNode"
)

// Signer answers the CertificateSigningRequests of vn-agents.
type Signer struct {
	// Client reads from a cache that has what CacheObjects says.
	Client client.Client
	// Live reads the super cluster itself.
	Live client.Reader
	// Authority signs.
	Authority *Authority
	// Namespace and ServiceAccount are vn-agent's.
	Namespace, ServiceAccount string
}

// CacheObjects are the kinds the Signer reads from its cache.
func CacheObjects() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&certificatesv1.CertificateSigningRequest{}: {
			Field: fields.OneTermEqualSelector("spec.signerName", tenancy.VNAgentServingSigner),
		},
	}
}

// SetupWithManager adds the controller to a manager whose cache has CacheObjects.
func (s *Signer) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("nodecert").
		For(&certificatesv1.CertificateSigningRequest{}).
		Complete(s)
}

// Reconcile answers one request: it denies it, with the reason in the condition, or
// approves and signs it.
func (s *Signer) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	request := &certificatesv1.CertificateSigningRequest{}
	if err := s.Client.Get(ctx, key.NamespacedName, request); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if request.Spec.SignerName != tenancy.VNAgentServingSigner || finished(request) {
		return reconcile.Result{}, nil
	}
	certificate, err := s.issue(ctx, request)
	if isRefusal(err) {
		log.FromContext(ctx).Info("Refused a certificate", "user", request.Spec.Username, "reason", err.Error())
		return reconcile.Result{}, s.deny(ctx, request, err.Error())
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("certificate signing request %s: %w", request.Name, err)
	}
	if !has(request, certificatesv1.CertificateApproved) {
		setCondition(request, certificatesv1.CertificateApproved, reasonApproved, "asked for by vn-agent on that node")
		if err := s.Client.SubResource("approval").Update(ctx, request, client.FieldOwner(apply.FieldManager)); err != nil {
			return reconcile.Result{}, ignoreRace(fmt.Errorf("approving certificate signing request %s: %w", request.Name, err))
		}
	}
	request.Status.Certificate = certificate
	if err := s.Client.Status().Update(ctx, request, client.FieldOwner(apply.FieldManager)); err != nil {
		return reconcile.Result{}, ignoreRace(fmt.Errorf("signing certificate signing request %s: %w", request.Name, err))
	}
	return reconcile.Result{}, nil
}

// issue validates a request and signs its certificate.
func (s *Signer) issue(ctx context.Context, request *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	name, err := nodeOf(request, serviceaccount.MakeUsername(s.Namespace, s.ServiceAccount))
	if err != nil {
		return nil, err
	}
	node := &corev1.Node{}
	if err := s.Live.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, refuse("there is no node %s", name)
		}
		return nil, fmt.Errorf("reading node %s: %w", name, err)
	}
	public, leaf, err := validate(request, node)
	if err != nil {
		return nil, err
	}
	ca, err := s.Authority.load(ctx)
	if err != nil {
		return nil, err
	}
	return ca.Sign(public, leaf)
}

// deny shows the reason to the request's author. One that somebody else approved
// cannot be denied any more, it fails.
func (s *Signer) deny(ctx context.Context, request *certificatesv1.CertificateSigningRequest, message string) error {
	var err error
	if has(request, certificatesv1.CertificateApproved) {
		setCondition(request, certificatesv1.CertificateFailed, reasonDenied, message)
		err = s.Client.Status().Update(ctx, request, client.FieldOwner(apply.FieldManager))
	} else {
		setCondition(request, certificatesv1.CertificateDenied, reasonDenied, message)
		err = s.Client.SubResource("approval").Update(ctx, request, client.FieldOwner(apply.FieldManager))
	}
	if err != nil {
		return ignoreRace(fmt.Errorf("denying certificate signing request %s: %w", request.Name, err))
	}
	return nil
}

func finished(request *certificatesv1.CertificateSigningRequest) bool {
	return len(request.Status.Certificate) > 0 || has(request, certificatesv1.CertificateDenied) || has(request, certificatesv1.CertificateFailed)
}

func has(request *certificatesv1.CertificateSigningRequest, condition certificatesv1.RequestConditionType) bool {
	for _, present := range request.Status.Conditions {
		if present.Type == condition {
			return true
		}
	}
	return false
}

func setCondition(request *certificatesv1.CertificateSigningRequest, condition certificatesv1.RequestConditionType, reason, message string) {
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: condition, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
}

// ignoreRace drops errors after which a newer version of the request comes anyway.
func ignoreRace(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
