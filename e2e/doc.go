// Package e2e holds the end-to-end tests: they use the embedded super cluster as
// its users do, through bin/kubectl, bin/kubectl-vc and a tenant's kubeconfig, and
// look at the super cluster from behind to see that nothing is left or leaked.
//
// They carry the build tag e2e, because they need root and start a cluster:
// `make e2e` runs them.
package e2e
