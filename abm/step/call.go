package step

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Bounds of one call.
const (
	callTimeout = 30 * time.Second
	// maxResponse is how much of an answer is read, in bytes.
	maxResponse = 1 << 20
	// maxQuoted is how much of a refusal is shown to people, in bytes.
	maxQuoted = 200
)

// call calls a server over TLS.
type call struct{}

func (call) Name() string { return "http" }

func (call) Is(spec *abmv1alpha1.Step) bool { return spec.HTTP != nil }

type callAction struct {
	hosts         []string
	do, undo      *compiledCall
	until         *expression.Expression
	ca            *compiledSecret
	authorization *compiledSecret
}

type compiledCall struct {
	spec *abmv1alpha1.HTTPCall
	url  *expression.Text
	body *expression.Template
}

type compiledSecret struct {
	name *expression.Text
	key  string
}

func (call) Compile(spec *abmv1alpha1.Step, scope *Scope) Action {
	a := &callAction{
		hosts:         scope.Hosts,
		do:            compileCall(&spec.HTTP.Do, scope.Path.Child("do"), scope),
		ca:            compileSecret(spec.HTTP.CA, scope.Path.Child("ca"), scope),
		authorization: compileSecret(spec.HTTP.Authorization, scope.Path.Child("authorization"), scope),
	}
	if spec.HTTP.Undo != nil {
		a.undo = compileCall(spec.HTTP.Undo, scope.Path.Child("undo"), scope)
	}
	response := expression.Variable{Name: "response", Type: expression.Any}
	scope.Outputs = append(scope.Outputs, response)
	if spec.HTTP.Until != "" {
		env, err := scope.Environment.With(response)
		if err == nil {
			a.until, err = env.CompileBool(spec.HTTP.Until)
		}
		if err != nil {
			scope.invalid(scope.Path.Child("until"), spec.HTTP.Until, err)
		}
	}
	return a
}

func compileCall(spec *abmv1alpha1.HTTPCall, path *field.Path, scope *Scope) *compiledCall {
	c := &compiledCall{spec: spec, url: scope.text(spec.URL, path.Child("url"))}
	if c.url != nil && !strings.HasPrefix(c.url.PlainPrefix(), "https://") {
		scope.Problems = append(scope.Problems, field.Invalid(path.Child("url"), spec.URL, "must begin with https://"))
	}
	if c.url != nil && c.url.Plain() {
		if _, err := allowedURL(spec.URL, scope.Hosts); err != nil {
			scope.invalid(path.Child("url"), spec.URL, err)
		}
	}
	if spec.Body != nil {
		var body any
		if err := utiljson.Unmarshal(spec.Body.Raw, &body); err != nil {
			scope.invalid(path.Child("body"), "", err)
			return c
		}
		var problems field.ErrorList
		c.body, problems = scope.Environment.Parse(body, path.Child("body"))
		scope.Problems = append(scope.Problems, problems...)
	}
	return c
}

func compileSecret(spec *abmv1alpha1.SecretKey, path *field.Path, scope *Scope) *compiledSecret {
	if spec == nil {
		return nil
	}
	if spec.Namespace != "" {
		scope.Problems = append(scope.Problems, field.Forbidden(path.Child("namespace"), "the Secret is in the instance's own namespace"))
	}
	if !scope.Allowed[abmv1alpha1.Kind{Kind: "Secret"}] {
		scope.Problems = append(scope.Problems, field.Forbidden(path, "kind Secret is not among the kinds that spec.access.super opens"))
	}
	return &compiledSecret{name: scope.text(spec.Name, path.Child("name")), key: spec.Key}
}

// allowedURL checks a URL against the hosts that a definition opens.
func allowedURL(text string, hosts []string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("is no URL: %w", err)
	}
	if parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil || parsed.Opaque != "" {
		return nil, errors.New("must be https://host/..., without a user")
	}
	host, port := strings.ToLower(parsed.Hostname()), parsed.Port()
	for _, allowed := range hosts {
		name, allowedPort, found := strings.Cut(strings.ToLower(allowed), ":")
		if !found {
			allowedPort = "443"
		}
		if allowedPort != port && (port != "" || allowedPort != "443") {
			continue
		}
		if below, wildcard := strings.CutPrefix(name, "*."); wildcard {
			if label, rest, _ := strings.Cut(host, "."); label != "" && rest == below {
				return parsed, nil
			}
		} else if host == name {
			return parsed, nil
		}
	}
	return nil, fmt.Errorf("host %q is not among spec.access.hosts", parsed.Host)
}

func (a *callAction) render(ctx context.Context, c *compiledCall, values expression.Values) (*abmv1alpha1.CallRecord, error) {
	text, err := c.url.String(ctx, values)
	if err != nil {
		return nil, err
	}
	if _, err := allowedURL(text, a.hosts); err != nil {
		return nil, fmt.Errorf("URL %q: %w", text, err)
	}
	record := &abmv1alpha1.CallRecord{Method: c.spec.Method, URL: text, SuccessCodes: c.spec.SuccessCodes}
	if c.body != nil {
		body, err := c.body.Render(ctx, values)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the body: %w", err)
		}
		record.Body = &runtime.RawExtension{Raw: data}
	}
	for _, ref := range []struct {
		from *compiledSecret
		to   **abmv1alpha1.SecretReference
	}{{a.ca, &record.CA}, {a.authorization, &record.Authorization}} {
		if ref.from == nil {
			continue
		}
		name, err := ref.from.name.String(ctx, values)
		if err != nil {
			return nil, err
		}
		*ref.to = &abmv1alpha1.SecretReference{Name: name, Key: ref.from.key}
	}
	return record, nil
}

func (a *callAction) Plan(ctx context.Context, values expression.Values) (*Plan, error) {
	do, err := a.render(ctx, a.do, values)
	if err != nil {
		return nil, err
	}
	var undo *abmv1alpha1.CallRecord
	if a.undo != nil {
		if undo, err = a.render(ctx, a.undo, values); err != nil {
			return nil, err
		}
	}
	return &Plan{
		Input:  []any{do, undo},
		Intend: func(record *abmv1alpha1.StepRecord) { record.Call = undo },
		Do: func(ctx context.Context, run *Run) (Progress, error) {
			status, body, err := send(ctx, run, do, "do-"+run.Record.InputHash)
			if err != nil {
				return Progress{}, err
			}
			response := map[string]any{"status": int64(status), "body": body}
			seen := expression.Values{"response": response}
			if a.until == nil {
				return Progress{Done: true, Seen: seen}, nil
			}
			all := expression.Values{"response": response}
			for name, value := range values {
				all[name] = value
			}
			done, err := a.until.True(ctx, all)
			if err != nil {
				return Progress{Message: "the answer is not as wanted yet: " + err.Error()}, nil //nolint:nilerr // an answer without the field may have it the next time
			}
			return Progress{Done: done, Message: fmt.Sprintf("%s %s answered %d, and not yet what is waited for", do.Method, do.URL, status), Seen: seen}, nil
		},
	}, nil
}

func (call) Undo(ctx context.Context, run *Run) (Progress, error) {
	if run.Record.Call == nil {
		return Progress{Done: true}, nil
	}
	undo := run.Record.Call.DeepCopy()
	undo.SuccessCodes = append(undo.SuccessCodes, http.StatusNotFound, http.StatusGone)
	if _, _, err := send(ctx, run, undo, "undo-"+run.Record.InputHash); err != nil {
		return Progress{}, err
	}
	return Progress{Done: true}, nil
}

// send makes a call and returns status and body: JSON, or a string where it is none.
func send(ctx context.Context, run *Run, c *abmv1alpha1.CallRecord, occasion string) (int, any, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	transport, err := transportFor(ctx, run, c)
	if err != nil {
		return 0, nil, err
	}
	defer transport.CloseIdleConnections()
	var roundTripper http.RoundTripper = transport
	if run.HTTP.Wrap != nil {
		roundTripper = run.HTTP.Wrap(roundTripper)
	}
	var payload io.Reader
	if c.Body != nil {
		payload = bytes.NewReader(c.Body.Raw)
	}
	request, err := http.NewRequestWithContext(ctx, c.Method, c.URL, payload)
	if err != nil {
		return 0, nil, fmt.Errorf("calling %s: %w", c.URL, err)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "bulkhead-abm")
	if c.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	key := sha256.Sum256([]byte(string(run.Owner.UID) + "/" + run.Record.Step + "/" + occasion))
	request.Header.Set("Idempotency-Key", hex.EncodeToString(key[:16]))
	if c.Authorization != nil {
		value, err := secret(ctx, run.Super, c.Authorization)
		if err != nil {
			return 0, nil, err
		}
		request.Header.Set("Authorization", strings.TrimSpace(string(value)))
	}
	httpClient := &http.Client{
		Transport: roundTripper,
		// Another place is not what the definition opens.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("calling %s: %w", c.URL, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", c.URL, err)
	}
	if len(data) > maxResponse {
		return 0, nil, fmt.Errorf("the answer of %s is longer than %d bytes", c.URL, maxResponse)
	}
	success := response.StatusCode >= 200 && response.StatusCode < 300 || slices.Contains(c.SuccessCodes, int32(response.StatusCode))
	if !success {
		return 0, nil, fmt.Errorf("%s %s answered %s: %.*q", c.Method, c.URL, response.Status, maxQuoted, data)
	}
	var body any
	if err := utiljson.Unmarshal(data, &body); err != nil {
		body = string(data)
	}
	return response.StatusCode, body, nil
}

func transportFor(ctx context.Context, run *Run, c *abmv1alpha1.CallRecord) (*http.Transport, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != nil {
		bundle, err := secret(ctx, run.Super, c.CA)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("key %s of Secret %s holds no certificate", c.CA.Key, c.CA.Name)
		}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		if run.HTTP.AllowAddress == nil {
			return nil
		}
		return run.HTTP.AllowAddress(address)
	}}
	return &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 10 * time.Second}, nil
}

// OutwardAddress refuses what a host name must never stand for: ABM's own pod, and
// the metadata services of clouds.
func OutwardAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("reading address %q: %w", address, err)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("reading address %q: %w", address, err)
	}
	if ip = ip.Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("the host's address is %s, which is never called", ip)
	}
	return nil
}
