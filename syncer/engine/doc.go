// Package engine is the generic core of the syncer. It carries objects between the
// super cluster and any number of tenants' clusters, and knows no kind: what
// differs from kind to kind is in package kinds, as values of Down and Up.
//
// One Engine serves all tenants. It holds what they share: the caches of the super
// cluster. Each running tenant is a Link, with clients, caches, queues and workers
// of its own, so that nothing that happens to one tenant slows another.
//
// The engine is level-triggered (decision D10). An event on either side becomes a
// Key in the tenant's coordinates; handling a key reads the present state of both
// sides and derives what to do. It keeps no state outside the clusters and may be
// killed at any moment.
//
// Two places are kept free. The patrol, which compares whole kinds within a budget,
// goes beside this package as syncer/patrol: it walks Engine's links and adds keys.
// The fair queue goes into package queue, behind the methods that are there now.
package engine
