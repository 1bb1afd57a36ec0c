package server

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
)

// serverMetrics have labels from fixed sets, and the tenant, whose series go when
// the tenant goes; never a namespace, pod or path.
type serverMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
}

func newMetrics() *serverMetrics {
	return &serverMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_vn_agent_requests_total", Help: "Requests of tenants that ended, by tenant, kubelet endpoint and HTTP status.",
		}, []string{"tenant", "endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_vn_agent_request_duration_seconds", Help: "Time from a request's headers to its end, by kubelet endpoint.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60, 600, 3600},
		}, []string{"endpoint"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_vn_agent_refused_total", Help: "Requests that vn-agent refused by itself, by reason.",
		}, []string{"reason"}),
	}
}

// Collectors are the server's metrics, for a registry.
func (s *Server) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		s.metrics.requests, s.metrics.duration, s.metrics.refused,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bulkhead_vn_agent_tenants", Help: "Tenants whose credentials vn-agent holds.",
		}, func() float64 { return float64(s.Registry.Len()) }),
	}
}

func (m *serverMetrics) observe(tenant types.UID, e kubeletapi.Endpoint, status int, duration time.Duration) {
	if !e.Known() {
		e = "other"
	}
	m.requests.WithLabelValues(string(tenant), string(e), strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(string(e)).Observe(duration.Seconds())
}

func (m *serverMetrics) forget(tenant types.UID) {
	m.requests.DeletePartialMatch(prometheus.Labels{"tenant": string(tenant)})
}

// recorder remembers the status that was sent.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	// 1xx answers come before the real one.
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(data []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(data)
}

// Hijack hands the connection over, which only an accepted upgrade does.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap gives http.ResponseController what is wrapped.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
