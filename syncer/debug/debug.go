// Package debug serves what the syncer tells platform teams about itself: pages in JSON
// (package report), and Go's profiles. It stands behind the authentication and
// authorisation of the metrics.
package debug

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/patrol"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// Path of all pages; a right to `get` it and what is below is what callers need.
const Path = "/debug/"

const (
	// maxProfile bounds how long a profile is taken, in seconds: callers come and go, and
	// the processor's is taken for one at a time.
	maxProfile = 60
	// pageTimeout bounds what reads caches.
	pageTimeout = 10 * time.Second
)

// Source is what is told about.
type Source struct {
	// Links of the tenants that run.
	Links func() []*engine.Link
	// Leading tells whether this replica works.
	Leading func() bool
	// Round of the patrol; nil where there is none.
	Round func(*engine.Link) (patrol.Round, bool)
}

// Handler serves all pages.
func (s Source) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/tenants", s.tenants)
	mux.HandleFunc("GET /debug/objects", s.objects)
	mux.HandleFunc("GET /debug/pprof/", bounded(pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/profile", bounded(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/trace", bounded(pprof.Trace))
	return mux
}

// bounded refuses profiles over too long a time.
func bounded(profile http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		if text := request.FormValue("seconds"); text != "" {
			if seconds, err := strconv.ParseFloat(text, 64); err != nil || !(seconds > 0 && seconds <= maxProfile) {
				http.Error(w, fmt.Sprintf("seconds must be above 0 and at most %d", maxProfile), http.StatusBadRequest)
				return
			}
		}
		profile(w, request)
	}
}

func (s Source) tenants(w http.ResponseWriter, _ *http.Request) {
	answer := report.Tenants{Leading: s.Leading(), Tenants: []report.Tenant{}}
	for _, link := range s.Links() {
		tenant := link.Report()
		tenant.Patrol = s.patrol(link)
		answer.Tenants = append(answer.Tenants, tenant)
	}
	slices.SortFunc(answer.Tenants, func(a, b report.Tenant) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	write(w, answer)
}

func (s Source) patrol(link *engine.Link) *report.Patrol {
	if s.Round == nil {
		return nil
	}
	round, ok := s.Round(link)
	if !ok {
		return nil
	}
	return &report.Patrol{Began: unlessZero(round.Began), LastEnded: unlessZero(round.LastEnded), LastResult: round.LastResult, Next: round.Next}
}

func unlessZero(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

func (s Source) objects(w http.ResponseWriter, request *http.Request) {
	query, err := parseQuery(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	link := s.find(query.tenant)
	switch {
	case link == nil && !s.Leading():
		http.Error(w, "this replica stands by; ask the one that leads, which holds the lease", http.StatusMisdirectedRequest)
		return
	case link == nil:
		http.Error(w, fmt.Sprintf("virtual cluster %s does not run here; /debug/tenants lists those that do", query.tenant), http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(request.Context(), pageTimeout)
	defer cancel()
	object, err := link.Find(ctx, query.key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	object.Tenant.Patrol = s.patrol(link)
	write(w, object)
}

// query is which object is asked for.
type query struct {
	tenant string
	key    engine.Key
}

func parseQuery(request *http.Request) (query, error) {
	q := query{
		tenant: request.FormValue("tenant"),
		key:    engine.Key{Resource: resourceOf(request.FormValue("kind")), Namespace: request.FormValue("namespace"), Name: request.FormValue("name")},
	}
	if strings.Count(q.tenant, "/") != 1 || q.key.Resource == "" || q.key.Name == "" {
		return query{}, fmt.Errorf("give tenant=NAMESPACE/NAME of the virtual cluster, and kind, namespace and name of the tenant's object")
	}
	return q, nil
}

// resourceOf takes a kind, such as Pod, or its name in the API.
func resourceOf(kind string) string {
	if kind == "" || kind == strings.ToLower(kind) {
		return kind
	}
	plural, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: kind})
	return plural.Resource
}

func (s Source) find(tenant string) *engine.Link {
	for _, link := range s.Links() {
		if link.Tenant().String() == tenant {
			return link
		}
	}
	return nil
}

func write(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(answer) // the caller has gone
}
