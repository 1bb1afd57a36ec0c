package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// Server answers root on the node.
type Server struct {
	Registry *sandbox.Registry
	// Status fills in what the registry does not know.
	Status func(context.Context) Status
	// Metrics are all of this process, in Prometheus' text format.
	Metrics func() ([]byte, error)
	// UID is the user that may ask.
	UID uint32
	Log logr.Logger
}

// peerKey is for what CheckPeer said of a connection.
type peerKey struct{}

// Serve serves until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			err := errors.New("this is no unix socket")
			if unixConn, ok := conn.(*net.UnixConn); ok {
				err = unixsocket.CheckPeer(unixConn, s.UID)
			}
			return context.WithValue(ctx, peerKey{}, err)
		},
	}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ending); err != nil {
			server.Close()
		}
	})()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	<-stopped
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(*http.Request) (any, error){
		"GET /status":  func(r *http.Request) (any, error) { return s.status(r.Context()), nil },
		"GET /pods":    func(*http.Request) (any, error) { return append([]sandbox.View{}, s.Registry.List()...), nil },
		"GET /rules":   s.rules,
		"GET /diff":    s.diff,
		"GET /trace":   s.trace,
		"POST /resync": s.resync,
		"GET /probe":   s.probe,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			value, err := answer(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(value); err != nil {
				s.Log.Info("Answering a question of root's", "error", err.Error())
			}
		})
	}
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		text, err := s.Metrics()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if _, err := w.Write(text); err != nil {
			s.Log.Info("Answering a question of root's", "error", err.Error())
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
			s.Log.Error(err, "Refused a question")
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) status(ctx context.Context) Status {
	status := s.Status(ctx)
	status.Summary = s.Registry.Summary()
	return status
}

func (s *Server) rules(r *http.Request) (any, error) {
	pod := r.FormValue("pod")
	set, view, err := s.Registry.Wanted(pod)
	if err != nil {
		return nil, err
	}
	if r.FormValue("live") != "" {
		services, err := s.Registry.Live(r.Context(), pod)
		if err != nil {
			return nil, err
		}
		return Rules{Pod: view, Live: true, Services: fromRules(services)}, nil
	}
	if set == nil {
		return Rules{Pod: view, Services: []Service{}}, nil
	}
	return Rules{Pod: view, Generation: set.Generation(), Ranges: set.Ranges(), Services: fromRules(set.Services())}, nil
}

func (s *Server) diff(r *http.Request) (any, error) {
	pod := r.FormValue("pod")
	live, err := s.Registry.Live(r.Context(), pod)
	if err != nil {
		return nil, err
	}
	set, view, err := s.Registry.Wanted(pod)
	if err != nil {
		return nil, err
	}
	answer := Diff{Pod: view}
	if set == nil {
		answer.Differences = compare(nil, live)
	} else {
		answer.Differences = compare(set.Services(), live)
	}
	return answer, nil
}

func (s *Server) trace(r *http.Request) (any, error) {
	key, err := ParseFrontend(r.FormValue("frontend"))
	if err != nil {
		return nil, err
	}
	set, view, err := s.Registry.Wanted(r.FormValue("pod"))
	if err != nil {
		return nil, err
	}
	return explain(set, view, key), nil
}

func (s *Server) resync(r *http.Request) (any, error) {
	var views []sandbox.View
	if r.FormValue("all") != "" {
		for _, view := range s.Registry.List() {
			if view.State != sandbox.Exempt {
				views = append(views, view)
			}
		}
	} else {
		view, err := s.Registry.Show(r.FormValue("pod"))
		if err != nil {
			return nil, err
		}
		views = append(views, view)
	}
	answers := []Resync{}
	for _, view := range views {
		answer := Resync{Sandbox: view.Sandbox, Pod: view.Namespace + "/" + view.Name}
		var err error
		if answer.Repaired, err = s.Registry.Resync(r.Context(), view.Sandbox); err != nil {
			answer.Error = err.Error()
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

func (s *Server) probe(r *http.Request) (any, error) {
	pod := r.FormValue("pod")
	hello, took, err := s.Registry.Probe(r.Context(), pod)
	if err != nil {
		return nil, err
	}
	view, err := s.Registry.Show(pod)
	if err != nil {
		return nil, err
	}
	return Probe{Pod: view, Hello: hello, Took: took.Round(time.Microsecond).String()}, nil
}
