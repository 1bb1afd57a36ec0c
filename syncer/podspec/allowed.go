package podspec

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// The rules that tenants read in events.
const (
	ruleOwnNetwork   = "pods have a network of their own, the node's is not shared"
	ruleNodeProcess  = "the node's processes and IPC are not shared with pods"
	ruleNodeFiles    = "the node's file system is not shared with pods"
	ruleVolumeKind   = "this kind of volume is not offered: use a PersistentVolumeClaim"
	ruleScheduling   = "pods are placed by the scheduler only"
	ruleScheduler    = "pods are placed by the default scheduler only"
	rulePriority     = "priorities of a tenant do not count among other tenants"
	rulePreempting   = "a PriorityClass of the platform is for tenants only with preemptionPolicy Never: no pod of a tenant preempts another's"
	ruleRuntime      = "the class of the virtual cluster does not offer this RuntimeClass"
	ruleClaims       = "device claims are not offered"
	ruleWindows      = "Windows nodes are not offered"
	ruleOverhead     = "the overhead is the platform's own setting"
	ruleProjection   = "this projected source is not offered"
	ruleCertificates = "certificates and trust bundles of the cluster are not offered to pods"
)

var (
	pass    = translation.Pass
	handled = translation.Handled
	ignore  = translation.IgnoreField
	refuse  = translation.RefuseField
)

// allowed decides on every field of a pod's specification. A field that is missing
// here does not go down, and its author is told; TestEveryFieldHasARule fails until
// a line is added. "handled" fields are decided on in the file that is named.
var allowed = translation.NewAllowList[corev1.PodSpec]("spec.", translation.Join(
	translation.Fields{
		"activeDeadlineSeconds":         pass,
		"restartPolicy":                 pass,
		"terminationGracePeriodSeconds": pass,
		"shareProcessNamespace":         pass,
		"hostAliases":                   pass,
		"hostname":                      pass,
		"subdomain":                     pass,
		"hostnameOverride":              pass,
		"imagePullSecrets":              pass,
		"readinessGates":                pass,
		"os":                            pass,
		"resources.limits":              pass,
		"resources.requests":            pass,
		"resources.claims":              refuse(ruleClaims),
		"overhead":                      handled, // security.go
		"setHostnameAsFQDN":             handled, // dns.go

		"dnsPolicy":                    handled, // dns.go
		"dnsConfig":                    handled, // dns.go
		"enableServiceLinks":           handled, // environment.go
		"serviceAccountName":           handled, // tokens.go
		"serviceAccount":               handled, // tokens.go: the deprecated name of the one above
		"automountServiceAccountToken": handled, // tokens.go: the tenant's apiserver has acted on it

		"nodeSelector":                             pass,
		"affinity.nodeAffinity":                    pass,
		"affinity.podAffinity":                     pass, // rewritten in scheduling.go
		"affinity.podAntiAffinity":                 pass, // rewritten in scheduling.go
		"topologySpreadConstraints":                pass,
		"tolerations":                              handled, // scheduling.go
		"nodeName":                                 handled, // scheduling.go
		"schedulerName":                            handled, // scheduling.go
		"priority":                                 handled, // scheduling.go
		"priorityClassName":                        handled, // scheduling.go
		"preemptionPolicy":                         handled, // scheduling.go
		"schedulingGates":                          handled, // a pod with gates does not go down until they are open
		"schedulingGroup":                          ignore(ruleScheduler),
		"resourceClaims":                           refuse(ruleClaims),
		"hostNetwork":                              refuse(ruleOwnNetwork),
		"hostPID":                                  refuse(ruleNodeProcess),
		"hostIPC":                                  refuse(ruleNodeProcess),
		"hostUsers":                                handled, // security.go
		"runtimeClassName":                         handled, // security.go
		"securityContext.seLinuxOptions":           pass,
		"securityContext.seLinuxChangePolicy":      pass,
		"securityContext.windowsOptions":           refuse(ruleWindows),
		"securityContext.runAsUser":                pass,
		"securityContext.runAsGroup":               pass,
		"securityContext.runAsNonRoot":             pass,
		"securityContext.supplementalGroups":       pass,
		"securityContext.supplementalGroupsPolicy": pass,
		"securityContext.fsGroup":                  pass,
		"securityContext.fsGroupChangePolicy":      pass,
		"securityContext.sysctls":                  pass,
		"securityContext.seccompProfile":           pass,
		"securityContext.appArmorProfile":          pass,
	},
	container.Under("containers[]."),
	container.Under("initContainers[]."),
	// They go down through a subresource of their own, once the pod is there.
	container.Under("ephemeralContainers[]."),
	translation.Fields{"ephemeralContainers[].targetContainerName": pass},
	volume.Under("volumes[]."),
))

// container is the same for containers, init containers and ephemeral ones.
var container = translation.Fields{
	"name":                                     pass,
	"image":                                    pass,
	"command":                                  pass,
	"args":                                     pass,
	"workingDir":                               pass,
	"ports[].name":                             pass,
	"ports[].containerPort":                    pass,
	"ports[].protocol":                         pass,
	"ports[].hostPort":                         pass, // refused by the baseline standard
	"ports[].hostIP":                           pass,
	"envFrom[].prefix":                         pass,
	"envFrom[].configMapRef":                   pass, // renamed in environment.go
	"envFrom[].secretRef":                      pass,
	"env[].name":                               pass,
	"env[].value":                              pass,
	"env[].valueFrom.fieldRef":                 pass, // rewritten in environment.go
	"env[].valueFrom.resourceFieldRef":         pass,
	"env[].valueFrom.configMapKeyRef":          pass, // renamed in environment.go
	"env[].valueFrom.secretKeyRef":             pass,
	"env[].valueFrom.fileKeyRef":               pass,
	"resources.limits":                         pass,
	"resources.requests":                       pass,
	"resources.claims":                         refuse(ruleClaims),
	"resizePolicy":                             pass,
	"restartPolicy":                            pass,
	"restartPolicyRules":                       pass,
	"volumeMounts[].name":                      pass,
	"volumeMounts[].readOnly":                  pass,
	"volumeMounts[].recursiveReadOnly":         pass,
	"volumeMounts[].mountPath":                 pass,
	"volumeMounts[].subPath":                   pass,
	"volumeMounts[].subPathExpr":               pass,
	"volumeMounts[].mountPropagation":          pass, // anything but None needs a privileged container
	"volumeDevices":                            pass,
	"livenessProbe":                            pass,
	"readinessProbe":                           pass,
	"startupProbe":                             pass,
	"lifecycle":                                pass,
	"terminationMessagePath":                   pass,
	"terminationMessagePolicy":                 pass,
	"imagePullPolicy":                          pass,
	"stdin":                                    pass,
	"stdinOnce":                                pass,
	"tty":                                      pass,
	"securityContext.capabilities":             pass,
	"securityContext.privileged":               pass, // refused by the baseline standard
	"securityContext.seLinuxOptions":           pass,
	"securityContext.windowsOptions":           refuse(ruleWindows),
	"securityContext.runAsUser":                pass,
	"securityContext.runAsGroup":               pass,
	"securityContext.runAsNonRoot":             pass,
	"securityContext.readOnlyRootFilesystem":   pass,
	"securityContext.allowPrivilegeEscalation": pass,
	"securityContext.procMount":                pass, // refused by the baseline standard
	"securityContext.seccompProfile":           pass,
	"securityContext.appArmorProfile":          pass,
}

// volume: those that hold the pod's own data or the tenant's objects pass. Those
// that make the node mount or reach something of the tenant's choice do not.
var volume = translation.Fields{
	"name":                            pass,
	"emptyDir":                        pass,
	"configMap":                       pass, // renamed in volumes.go
	"secret":                          pass,
	"downwardAPI":                     pass, // rewritten in volumes.go
	"persistentVolumeClaim":           pass,
	"ephemeral":                       handled, // volumes.go
	"image":                           pass,
	"projected.defaultMode":           pass,
	"projected.sources[].secret":      pass,
	"projected.sources[].configMap":   pass, // renamed in volumes.go
	"projected.sources[].downwardAPI": pass, // rewritten in volumes.go
	"projected.sources[].serviceAccountToken": pass, // replaced in volumes.go
	"projected.sources[].clusterTrustBundle":  refuse(ruleCertificates),
	"projected.sources[].podCertificate":      refuse(ruleCertificates),
	"hostPath":                                refuse(ruleNodeFiles),
	"csi":                                     refuse(ruleVolumeKind),
	"nfs":                                     refuse(ruleVolumeKind),
	"iscsi":                                   refuse(ruleVolumeKind),
	"fc":                                      refuse(ruleVolumeKind),
	"rbd":                                     refuse(ruleVolumeKind),
	"cephfs":                                  refuse(ruleVolumeKind),
	"cinder":                                  refuse(ruleVolumeKind),
	"glusterfs":                               refuse(ruleVolumeKind),
	"flexVolume":                              refuse(ruleVolumeKind),
	"flocker":                                 refuse(ruleVolumeKind),
	"gitRepo":                                 refuse(ruleVolumeKind),
	"quobyte":                                 refuse(ruleVolumeKind),
	"scaleIO":                                 refuse(ruleVolumeKind),
	"storageos":                               refuse(ruleVolumeKind),
	"portworxVolume":                          refuse(ruleVolumeKind),
	"vsphereVolume":                           refuse(ruleVolumeKind),
	"photonPersistentDisk":                    refuse(ruleVolumeKind),
	"azureDisk":                               refuse(ruleVolumeKind),
	"azureFile":                               refuse(ruleVolumeKind),
	"awsElasticBlockStore":                    refuse(ruleVolumeKind),
	"gcePersistentDisk":                       refuse(ruleVolumeKind),
}
