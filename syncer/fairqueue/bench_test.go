package fairqueue

import (
	"fmt"
	"testing"
	"time"
)

// One busy tenant beside idle ones: add, get and done of one key.
func BenchmarkIdleTenants(b *testing.B) {
	for _, idle := range []int{1, 100, 10000} {
		b.Run(fmt.Sprint(idle), func(b *testing.B) {
			q := New[int, int](Options[int]{})
			for tenant := range idle + 1 {
				q.Set(tenant, Tenant{})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q.Add(0, i)
				item, _ := q.Get()
				q.Done(item)
			}
		})
	}
}

// All tenants have keys to hand out.
func BenchmarkBusyTenants(b *testing.B) {
	for _, busy := range []int{1, 100, 10000} {
		b.Run(fmt.Sprint(busy), func(b *testing.B) {
			q := New[int, int](Options[int]{})
			for tenant := range busy {
				q.Set(tenant, Tenant{})
				q.Add(tenant, -1)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q.Add(i%busy, i)
				item, _ := q.Get()
				q.Done(item)
			}
		})
	}
}

// A failing key: get, retry and done, with so many others delayed.
func BenchmarkRetry(b *testing.B) {
	for _, delayed := range []int{1, 10000} {
		b.Run(fmt.Sprint(delayed), func(b *testing.B) {
			q := New[int, int](Options[int]{Retry: Retry{Base: time.Hour, Max: time.Hour, PerSecond: 1e9, Burst: 1e9}})
			q.Set(0, Tenant{})
			for key := range delayed {
				q.AddAfter(0, -key, time.Hour)
			}
			b.ReportAllocs()
			for b.Loop() {
				q.Add(0, 1)
				item, _ := q.Get()
				q.Retry(0, 1)
				q.Done(item)
			}
			q.ShutDown()
		})
	}
}
