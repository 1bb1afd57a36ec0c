package engine

import (
	"regexp"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// notGranted is how an API server says that somebody has not the right to do something
// at all (k8s.io/apiserver/pkg/endpoints/handlers/responsewriters), which has the same
// code and reason as what admission refuses.
var notGranted = regexp.MustCompile(`forbidden: User "[^"]*" cannot `)

// RefusesObject tells whether the super cluster has something against an object, which
// its author should hear of: a quota, an admission, an invalid field. That the syncer
// itself may not do something, as it is for a moment when an API server starts, is none
// of the tenant's business, and a namespace that is being deleted is waited for.
func RefusesObject(err error) bool {
	switch {
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return true
	case apierrors.IsForbidden(err):
		return !terminating(err) && !notGranted.MatchString(err.Error())
	}
	return false
}

// terminating tells whether an error is that a namespace is being deleted.
func terminating(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
