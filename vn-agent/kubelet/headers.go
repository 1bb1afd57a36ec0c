package kubelet

import (
	"net/http"
	"net/textproto"
)

// passed are the request headers that mean something to a kubelet. All others
// stay behind: credentials and claims of identity (Authorization, Impersonate-*,
// X-Remote-*, Cookie) as well as what nobody here has thought of.
var passed = []string{
	"Accept",
	"Accept-Encoding",
	// Connection upgrades: RFC 9110 section 7.8; SPDY's stream protocol is
	// negotiated in a header of Kubernetes' own, WebSocket's in those of RFC 6455.
	"Connection",
	"Upgrade",
	"X-Stream-Protocol-Version",
	"Sec-Websocket-Extensions",
	"Sec-Websocket-Key",
	"Sec-Websocket-Protocol",
	"Sec-Websocket-Version",
	"Origin",
}

// PassHeaders copies what may reach the kubelet.
func PassHeaders(from http.Header) http.Header {
	to := http.Header{}
	for _, name := range passed {
		if values := from[textproto.CanonicalMIMEHeaderKey(name)]; len(values) > 0 {
			to[textproto.CanonicalMIMEHeaderKey(name)] = append([]string(nil), values...)
		}
	}
	return to
}
