// Package fairqueue shares a pool of workers among many tenants.
//
// A Queue holds keys: names of things to look at, not messages. Each key belongs to a
// tenant, and a tenant has a backlog, delays, retries and a rate limit of its own. A
// worker that is free takes the next key of the tenant whose turn it is.
//
// # Using it
//
// Tenants are announced with Set and taken away with Remove. Keys are added with Add or
// AddAfter, and Run handles them until its context ends:
//
//	q := fairqueue.New[string, string](fairqueue.Options[string]{TenantWorkers: 8})
//	q.Set("acme", fairqueue.Tenant{Weight: 2})
//	q.Add("acme", "pod web/a")
//	q.Run(ctx, 64, func(ctx context.Context, tenant, key string) (time.Duration, error) {
//		return 0, look(ctx, tenant, key)
//	})
//
// A handler that returns an error sees its key again, later each time. One that
// returns a time sees it again after that. Who needs more control takes keys with Get
// and gives them back with Done, Retry and Forget.
//
// # What is promised for a key
//
//   - It is handled at least once after each Add that returned true, and as many times
//     as there are Adds at most: what is added while it waits is one with what waits.
//   - It is never handled twice at a time. What is added while it is handled is
//     remembered, and the key waits again when the handling ends.
//   - It is held once, however often it is added, delayed and retried.
//   - AddAfter is a promise to look again then at the latest: if it is called more than
//     once, the earliest time counts.
//   - Removing a tenant drops what waits. A handling that goes on meanwhile ends in its
//     own time, and if the same tenant is announced again before that, the key still is
//     not handled twice at a time.
//   - ShutDown drops what waits; Drain has it handled first, except what is delayed or
//     fails, and what a paused tenant has.
//
// # What is promised to a tenant
//
// Turns are given by start-time fair queueing. The scarce thing is the time of workers,
// so that is what is shared: each tenant has a virtual time, which advances by the cost
// of its handlings divided by its weight, and the tenant that is furthest behind is next.
// The cost of a handling is how long it took. It is not known when it starts: the mean
// of the tenant's earlier ones is charged then, and corrected in the end. A tenant that had
// nothing to do resumes where the others are: it neither saves up turns nor waits behind
// a backlog of others, whatever its length. With CostPerKey turns are shared by number:
// then, as long as two tenants a and b both have keys to hand out, the numbers of their
// keys n handed out since then differ by
//
//	|n(a)/weight(a) - n(b)/weight(b)| <= 1/weight(a) + 1/weight(b)
//
// Why time and not number: if five tenants' servers take a second to answer, and a sixth's
// takes a millisecond, turns of equal number bring all six down to the pace of the
// slowest. A single handling is charged a second at most, so that a tenant is not
// punished for long because its server once hung.
//
// No discipline helps while all workers are inside a handler that hangs. That is what the
// cap of concurrent handlings of a tenant, Options.TenantWorkers, is for.
//
// # What it costs
//
// Adding, taking and giving back are O(log n) in the number of tenants that have
// keys to hand out, and O(1) in those that have none. Delays are O(log n) in the number of delayed
// keys. There is one timer, and no goroutine but the workers.
package fairqueue
