// Package churn lets tenants create, change and delete objects at random while every
// process around the syncer, and the syncer itself, is killed, and then asks a model
// whether both sides are as they should be: nothing lost, duplicated, orphaned or wrong.
//
// The clusters are real control planes. Only what would need nodes is played: a
// scheduler, kubelets, a provisioner of volumes and of load balancers.
//
// The model (files model_*) reads what is in the clusters, and knows nothing of how the
// syncer translates: it says again, in its own words, what docs/syncer.md promises.
//
// The sequence of operations of each actor follows from a seed. CHURN_SEED repeats it;
// what the clusters make of it, and when the kills hit, is up to time.
package churn
