// Package engine is the generic core of the syncer. It carries objects between the
// super cluster and any number of tenants' clusters, and knows no kind: what
// differs from kind to kind is in package kinds, as values of Down and Up.
//
// One Engine serves all tenants. It holds what they share: the caches of the super
// cluster, and two fair queues, down and up, with their workers. Each running tenant is a
// Link, with clients and caches of its own, and a backlog, retries and a share of the
// workers in either queue, so that nothing that happens to one tenant slows another.
//
// The engine is level-triggered (decision D10). An event on either side becomes a
// Key in the tenant's coordinates; handling a key reads the present state of both
// sides and derives what to do. It keeps no state outside the clusters and may be
// killed at any moment.
//
// A link can also rehearse: Compare handles a key without writing, and tells what
// would be written. Package patrol finds by it what events did not tell of.
package engine
