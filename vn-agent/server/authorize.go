package server

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
)

// authorize asks the tenant's apiserver for what a kubelet would ask: access to a
// subresource of the node. The vNode has the node's own name.
func authorize(ctx context.Context, user *identity.User, nodeName string, e kubeletapi.Endpoint, r *http.Request) error {
	verb := kubeletapi.Verb(r.Method)
	var last string
	for _, subresource := range e.Subresources() {
		decision, reason, err := user.Tenant.Authorize(ctx, authorizer.AttributesRecord{
			User: user, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: subresource,
			Name: nodeName, ResourceRequest: true, Path: r.URL.Path,
		})
		if err != nil {
			return &unanswered{err: err}
		}
		if decision == authorizer.DecisionAllow {
			return nil
		}
		last = reason
	}
	return kubeletapi.Refuse(http.StatusForbidden, "user %q may not %s nodes/%s of node %q %s", user.GetName(), verb, e.Subresources()[0], nodeName, last)
}

// unanswered is a review that the tenant's apiserver did not answer.
type unanswered struct{ err error }

func (u *unanswered) Error() string {
	return "asking this cluster's apiserver for an access review: " + u.err.Error()
}
func (u *unanswered) Unwrap() error { return u.err }
