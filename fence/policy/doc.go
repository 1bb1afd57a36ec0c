// Package policy turns what the super cluster says (pods, labels of namespaces,
// NetworkPolicies) into a table.Table for one node.
//
// A Model takes changes one at a time and changes of the table what depends on them:
// a pod that comes is an element in the sets of the selectors that match it. Policies
// are compiled while they select a local pod; what several of them have in common
// (the pods of a selector, a list of networks or ports) is in the table once.
package policy
