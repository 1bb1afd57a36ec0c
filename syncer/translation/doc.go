// Package translation holds what the translations of all kinds share: what they
// need to know about a tenant, the allow-list by which specifications are copied
// (decision D3), the metadata that goes down and the messages that come up.
//
// Everything here is a pure function of its arguments.
package translation
