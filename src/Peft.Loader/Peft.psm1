# The root module: loads the cmdlets through the loader, in a load context of their own, and hands them to this module.
# It uses no cmdlet beyond Microsoft.PowerShell.Core, so that it works in any host of the engine.
$null = [System.Reflection.Assembly]::LoadFrom([System.IO.Path]::Combine($PSScriptRoot, 'Peft.Loader.dll'))
$cmdlets = Microsoft.PowerShell.Core\Import-Module -Assembly ([Peft.Loader.ModuleLoader]::Load()) -PassThru

# On a second import in the same process PowerShell takes the nested module from its cache and leaves its cmdlets out of this one.
$addCmdlet = [System.Management.Automation.PSModuleInfo].GetMethod('AddExportedCmdlet', [System.Reflection.BindingFlags]'Instance, NonPublic')
foreach ($cmdlet in $cmdlets.ExportedCmdlets.Values) {
    if (-not $ExecutionContext.SessionState.Module.ExportedCmdlets.ContainsKey($cmdlet.Name)) {
        $null = $addCmdlet.Invoke($ExecutionContext.SessionState.Module, @(, $cmdlet))
    }
}

Microsoft.PowerShell.Core\Export-ModuleMember -Cmdlet * -Alias *
